//! Which processes hold which agents, and can this machine hold them? Plain; a refusal says what to ask for instead.

use crate::machine::Machine;
use crate::population::Population;
use serde::{Deserialize, Serialize};

/// Descriptors of a broker or generator that are no agent's: listeners, files, links, operators, the flood.
const SPARE: u64 = 1_000;
/// Most agents of one generator.
const MOST: u64 = 19_000;
/// What an agent takes at most, bytes: in its broker, in its generator, and of the kernel's for both sockets.
pub(crate) const AGENT: u64 = 96 * 1024;
/// What each value of an agent's facts beyond the usual 20 takes, bytes.
const VALUE: u64 = 512;
/// What a broker takes with no agents, bytes, while it checks passwords.
const BROKER: u64 = 128 * 1024 * 1024;

/// The agents of one generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Share {
    /// Their numbers.
    pub(crate) fn agents(self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }
}

/// What was asked is more than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// For one broker; more brokers help.
    #[error(
        "{agents} agents over {brokers} broker(s) need {need} open files in one broker; the hard limit here is {have}: ask for --agents {most} or --brokers {enough}, or raise the limit (ulimit -Hn)"
    )]
    Descriptors { agents: u32, brokers: u32, need: u64, have: u64, most: u64, enough: u64 },
    /// Not even the programs themselves.
    #[error(
        "each process needs {SPARE} open files beside those of agents; the hard limit here is {0}: raise it (ulimit -Hn)"
    )]
    NoDescriptors(u64),
    #[error(
        "{agents} agents with {facts} facts over {brokers} broker(s) need about {need} MiB of memory; {have} MiB are available: ask for --agents {most}"
    )]
    Memory { agents: u32, facts: u32, brokers: u32, need: u64, have: u64, most: u64 },
    #[error(
        "--per-address {asked} needs as many ports of one address; the system hands out {have} (net.ipv4.ip_local_port_range): ask for --per-address {have}"
    )]
    Ports { asked: u32, have: u32 },
    #[error(
        "{agents} agents with --per-address {per_address} need {need} source addresses; there are {have} on loopback: ask for --per-address {enough}"
    )]
    Addresses { agents: u32, per_address: u32, need: u32, have: u32, enough: u32 },
    #[error("{brokers} brokers for {agents} agent(s): ask for --brokers {agents}")]
    Idle { agents: u32, brokers: u32 },
}

/// The generators for these agents, each of which takes so many bytes, or why there can be none.
pub(crate) fn plan(population: &Population, each: u64, machine: &Machine) -> Result<Vec<Share>, Refusal> {
    let Population { agents, brokers, facts, per_address, .. } = *population;
    if brokers > agents {
        return Err(Refusal::Idle { agents, brokers });
    }
    if per_address > machine.ports {
        return Err(Refusal::Ports { asked: per_address, have: machine.ports });
    }
    let (need, have) = (population.addresses(), Population::most_addresses());
    if need > have {
        return Err(Refusal::Addresses { agents, per_address, need, have, enough: agents.div_ceil(have) });
    }
    let per_process = machine.descriptors.map_or(u64::MAX, |most| most.saturating_sub(SPARE));
    let at_one = u64::from(agents.div_ceil(brokers));
    if let (Some(have), 0) = (machine.descriptors, per_process) {
        return Err(Refusal::NoDescriptors(have));
    }
    if let (Some(have), true) = (machine.descriptors, at_one > per_process) {
        let (most, enough) = (per_process * u64::from(brokers), u64::from(agents).div_ceil(per_process));
        return Err(Refusal::Descriptors { agents, brokers, need: at_one + SPARE, have, most, enough });
    }
    let fixed = BROKER * u64::from(brokers);
    let each = each + VALUE * u64::from(facts.saturating_sub(20));
    let need = fixed + each * u64::from(agents);
    if need > machine.available {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        let most = machine.available.saturating_sub(fixed) / each;
        return Err(Refusal::Memory { agents, facts, brokers, need: mib(need), have: mib(machine.available), most });
    }
    Ok(shares(agents, per_process.min(MOST)))
}

/// As few as hold them all, as equal as can be.
fn shares(agents: u32, most: u64) -> Vec<Share> {
    let generators = u64::from(agents).div_ceil(most);
    let begin = |place: u64| (u64::from(agents) * place / generators) as u32;
    (0..generators).map(|place| Share { first: begin(place), count: begin(place + 1) - begin(place) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            descriptors: Some(20_000),
            available: 22 << 30,
            ports: 28_232,
            cores: 2,
            processor: "any".into(),
            kernel: "6".into(),
            memory: 24 << 30,
        }
    }

    fn population(agents: u32, brokers: u32) -> Population {
        Population { agents, brokers, users: 20, facts: 20, per_address: 1, seed: 1 }
    }

    #[test]
    fn fifty_thousand_take_three_brokers_and_three_generators() {
        let shares = plan(&population(50_000, 3), AGENT, &machine()).expect("they fit");
        assert_eq!(shares.len(), 3);
        assert_eq!(shares.iter().map(|share| share.count).sum::<u32>(), 50_000);
        for pair in shares.windows(2) {
            assert_eq!(pair[0].agents().end, pair[1].first);
        }
        assert!(shares.iter().all(|share| (16_666..=16_667).contains(&share.count)), "{shares:?}");
        assert_eq!(plan(&population(19_000, 1), AGENT, &machine()), Ok(vec![Share { first: 0, count: 19_000 }]));
        let unlimited = Machine { descriptors: None, ..machine() };
        assert_eq!(plan(&population(50_000, 1), AGENT, &unlimited).map(|shares| shares.len()), Ok(3));
    }

    #[test]
    fn what_is_too_much_is_refused_with_what_is_not() {
        let refused = |population: Population, machine: Machine| {
            plan(&population, AGENT, &machine).expect_err("too much").to_string()
        };
        assert_eq!(
            refused(population(50_000, 1), machine()),
            "50000 agents over 1 broker(s) need 51000 open files in one broker; the hard limit here is 20000: \
             ask for --agents 19000 or --brokers 3, or raise the limit (ulimit -Hn)"
        );
        assert!(plan(&population(50_000, 3), AGENT, &machine()).is_ok());
        let small = Machine { available: 1 << 30, ..machine() };
        let text = refused(population(19_000, 1), small.clone());
        assert_eq!(
            text,
            "19000 agents with 20 facts over 1 broker(s) need about 1909 MiB of memory; 1024 MiB are available: ask for --agents 9557"
        );
        assert!(plan(&population(9_557, 1), AGENT, &small).is_ok());
        let error =
            plan(&population(9_557, 1), 4 * AGENT, &small).expect_err("too much for who takes more").to_string();
        assert!(error.ends_with("ask for --agents 2389"), "{error}");
        let crowded = Population { per_address: 30_000, ..population(100, 1) };
        assert!(refused(crowded, machine()).ends_with("ask for --per-address 28232"));
        let many = Machine { descriptors: None, available: u64::MAX, ..machine() };
        let text = refused(population(50_000_000, 1), many.clone());
        assert!(text.ends_with("ask for --per-address 4"), "{text}");
        assert!(plan(&Population { per_address: 4, ..population(50_000_000, 1) }, AGENT, &many).is_ok());
        let tiny = Machine { descriptors: Some(512), ..machine() };
        assert!(refused(population(1, 1), tiny).contains("hard limit here is 512"));
        assert!(refused(population(2, 3), machine()).contains("--brokers 2"));
    }
}
