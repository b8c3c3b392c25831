//! How long does a broker take to learn its ways anew when a link comes or goes?
//!
//! `cargo bench -p muster-server --bench mesh`

#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use muster_protocol::link::{LinkState, Neighbour};
use muster_protocol::message::BrokerName;
use muster_server::broker::mesh::routes::Routes;
use muster_server::broker::mesh::topology::Topology;
use std::collections::BTreeMap;
use std::hint::black_box;

/// Brokers and links.
const SIZES: [(usize, usize); 2] = [(20, 60), (100, 300)];

fn mesh(criterion: &mut Criterion) {
    let me = name(0);
    let mut group = criterion.benchmark_group("mesh");
    for (brokers, links) in SIZES {
        let size = format!("{brokers} brokers, {links} links");
        let topology = topology(brokers, links);
        let graph = topology.graph();
        assert_eq!(Routes::compute(&graph, &me).members().len(), brokers, "a connected mesh");
        group.bench_function(BenchmarkId::new("graph", &size), |it| it.iter(|| black_box(&topology).graph()));
        group.bench_function(BenchmarkId::new("epoch", &size), |it| it.iter(|| black_box(&graph).epoch()));
        group.bench_function(BenchmarkId::new("routes", &size), |it| {
            it.iter(|| Routes::compute(black_box(&graph), &me))
        });
    }
    group.finish();
}

/// A ring, and chords that are spread by a hash; costs of 1 to 3. The broker is the first.
fn topology(brokers: usize, links: usize) -> Topology {
    let mut neighbours = vec![BTreeMap::new(); brokers];
    let mut link = |a: usize, b: usize, cost: u32| {
        let is_new = a != b && !neighbours[a].contains_key(&name(b));
        if is_new {
            neighbours[a].insert(name(b), Neighbour { cost, send: None });
            neighbours[b].insert(name(a), Neighbour { cost, send: None });
        }
        usize::from(is_new)
    };
    let mut count: usize = (0..brokers).map(|at| link(at, (at + 1) % brokers, 1)).sum();
    let mut bits = 7u64;
    while count < links {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let of = |shift: u32| (bits >> shift) as usize;
        count += link(of(33) % brokers, of(45) % brokers, 1 + (of(57) % 3) as u32);
    }
    let mut topology = Topology::new(name(0), 1, 1, 1);
    for (at, neighbours) in neighbours.into_iter().enumerate() {
        if at == 0 {
            for (peer, end) in neighbours {
                topology.set_neighbour(&peer, Some(end));
            }
            continue;
        }
        let record = LinkState {
            origin: name(at),
            instance: 1,
            sequence: 1,
            incarnation: 1,
            born: 1,
            draining: false,
            neighbours,
        };
        topology.take(record);
    }
    topology
}

fn name(at: usize) -> BrokerName {
    BrokerName::parse(&format!("broker-{at:03}")).expect("a name")
}

criterion_group!(benches, mesh);
criterion_main!(benches);
