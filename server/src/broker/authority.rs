//! Who may change the policy, and how do changes spread? The broker's side of the authority; `editions` holds what it knows.

use super::Broker;
use super::access::User;
use super::errand::Chore;
use super::event::{Now, Sent};
use super::inquiries::Asker;
use muster_protocol::error::{Code, Refusal};

impl Broker {
    pub(super) fn ask_authority(&mut self, _: Asker, _: &User, _: Sent, _: Now) -> Result<usize, Refusal> {
        Err(Refusal::new(Code::Unsupported, "not there yet"))
    }

    pub(super) fn fetch(&mut self, _: Asker, _: Chore) -> Result<usize, Refusal> {
        Err(Refusal::new(Code::Unsupported, "not there yet"))
    }
}
