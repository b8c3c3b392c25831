//! What can a request be addressed to? Targets with an answer of their own, computed without the filter language.

use super::actors::Agent;
use super::dice::Dice;

pub(super) const CENTERS: &[&str] = &["a", "b", "c"];
pub(super) const ROLES: &[&str] = &["web", "db", "mail"];

/// A target.
#[derive(Debug, Clone)]
pub(super) enum Aim {
    All,
    Center(&'static str),
    Role(&'static str),
    HasRole,
    Customer(&'static str),
    CpusAtLeast(u64),
    Class(&'static str),
    Not(Box<Aim>),
    And(Box<Aim>, Box<Aim>),
    Or(Box<Aim>, Box<Aim>),
}

impl Aim {
    pub(super) fn random(dice: &mut Dice) -> Aim {
        let mut part = || -> Aim {
            match dice.below(8) {
                0 | 1 => Aim::Center(dice.pick(CENTERS)),
                2 | 3 => Aim::Role(dice.pick(ROLES)),
                4 => Aim::HasRole,
                5 => Aim::Customer(dice.pick(&["acmeinc", "globex"])),
                6 => Aim::CpusAtLeast(dice.within(1..10)),
                _ => Aim::Class(dice.pick(ROLES)),
            }
        };
        let (one, other) = (part(), part());
        match dice.below(10) {
            0 | 1 => Aim::All,
            2 => Aim::Not(Box::new(one)),
            3 => Aim::And(Box::new(one), Box::new(other)),
            4 => Aim::Or(Box::new(one), Box::new(other)),
            _ => one,
        }
    }

    /// `muster-target`.
    pub(super) fn text(&self) -> String {
        match self {
            Aim::All => "all".into(),
            Aim::Center(center) => format!("datacenter={center}"),
            Aim::Role(role) => format!("role={role}"),
            Aim::HasRole => "has role".into(),
            Aim::Customer(customer) => format!("customer={customer}"),
            Aim::CpusAtLeast(cpus) => format!("cpu.count>={cpus}"),
            Aim::Class(class) => format!("class={class}"),
            Aim::Not(aim) => format!("not ({})", aim.text()),
            Aim::And(one, other) => format!("({}) and ({})", one.text(), other.text()),
            Aim::Or(one, other) => format!("({}) or ({})", one.text(), other.text()),
        }
    }

    pub(super) fn matches(&self, agent: &Agent) -> bool {
        match self {
            Aim::All => true,
            Aim::Center(center) => agent.center == *center,
            Aim::Role(role) => agent.role == Some(*role),
            Aim::HasRole => agent.role.is_some(),
            Aim::Customer(customer) => agent.customer() == *customer,
            Aim::CpusAtLeast(cpus) => agent.cpus >= *cpus,
            Aim::Class(class) => agent.role == Some(*class),
            Aim::Not(aim) => !aim.matches(agent),
            Aim::And(one, other) => one.matches(agent) && other.matches(agent),
            Aim::Or(one, other) => one.matches(agent) || other.matches(agent),
        }
    }

    /// Whether what a broker tells of its nodes decides this target exactly: one question about one fact.
    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Aim::Not(_) | Aim::And(..) | Aim::Or(..))
    }
}
