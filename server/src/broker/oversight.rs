//! Who is connected, who was, and who is to go? Questions of admins about the sessions of this broker.

use super::Broker;
use super::access::User;
use super::event::Now;
use super::inquiries::Asker;
use muster_protocol::admin::{CloseQuery, SessionsQuery};
use muster_protocol::error::{Code, Refusal};

impl Broker {
    /// Answers `/muster/admin.sessions`; what it cost.
    pub(super) fn show_sessions(&mut self, _: &Asker, _: &User, _: &SessionsQuery, _: Now) -> Result<usize, Refusal> {
        Err(Refusal::new(Code::Unsupported, "not there yet"))
    }

    /// Answers `/muster/admin.close`; what it cost.
    pub(super) fn close_for(&mut self, _: &Asker, _: &CloseQuery, _: Now) -> Result<usize, Refusal> {
        Err(Refusal::new(Code::Unsupported, "not there yet"))
    }
}
