//! How many small frames a second does one core decode and encode?

mod setup;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use muster_protocol::frame::{Command, Decoded, Decoder, Encoder, Limits, Version, encode};
use setup::{FRAMES, HEADERS, decode_all, frame, wire};
use std::hint::black_box;

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let plain = wire(&frame());
    let escaped = wire(&frame().header("muster-note", "a:b"));
    assert_eq!(decode_all(plain.clone()), FRAMES);
    group.bench_function("small", |b| {
        b.iter_batched(|| plain.clone(), decode_all, BatchSize::SmallInput);
    });
    group.bench_function("with an escape", |b| {
        b.iter_batched(|| escaped.clone(), decode_all, BatchSize::SmallInput);
    });
    group.bench_function("and five headers looked up", |b| {
        let all = |mut buf: BytesMut| {
            let mut decoder = Decoder::new(Limits::default());
            decoder.set_version(Version::V1_2);
            while let Ok(Some(Decoded::Frame(frame))) = decoder.decode(&mut buf) {
                for (name, _) in &HEADERS[1..] {
                    black_box(frame.headers.get(name));
                }
            }
        };
        b.iter_batched(|| plain.clone(), all, BatchSize::SmallInput);
    });
    group.bench_function("byte by byte", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new(Limits::default());
            decoder.set_version(Version::V1_2);
            let mut buf = BytesMut::with_capacity(1024);
            for byte in &plain {
                buf.extend_from_slice(&[*byte]);
                let _ = black_box(decoder.decode(&mut buf));
            }
        });
    });
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let mut out = BytesMut::with_capacity(64 * 1024);
    let made = frame();
    let Ok(Some(Decoded::Frame(received))) = Decoder::new(Limits::default()).decode(&mut wire(&made)) else {
        panic!("what was encoded is decoded")
    };
    for (name, frame) in [("made", &made), ("received", &received)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                for _ in 0..FRAMES {
                    encode(black_box(frame), Version::V1_2, &mut out);
                }
            });
        });
    }
    group.bench_function("by the encoder, no Frame", |b| {
        b.iter(|| {
            out.clear();
            for _ in 0..FRAMES {
                let mut encoder = Encoder::start(Command::Send, Version::V1_2, &mut out);
                for (name, value) in black_box(&HEADERS) {
                    encoder = encoder.header(name, value);
                }
                encoder.finish(black_box(&made.body));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encoding);
criterion_main!(benches);
