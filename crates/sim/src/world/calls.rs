//! What a network and a busy server do to a call: refuse it, lose it, apply it and lose the answer, or be slow.

use super::World;
use crate::faults::OutageKind;
use crate::status::Refusal;

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Changes nothing.
    Read,
    /// Changes something.
    Write,
}

/// Why a call gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server said no.
    Status(Refusal),
    /// The connection ended without an answer: it may or may not have been applied.
    Lost,
}

/// An answer, and how long it takes to arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T, E = Failure> {
    /// Virtual milliseconds from the call to the answer.
    pub after_ms: u64,
    /// The answer.
    pub result: Result<T, E>,
}

impl World {
    /// Makes a call as a client over a network would. `apply` is what the server does, if it gets that far.
    pub fn call<T>(
        &mut self,
        call: Call,
        apply: impl FnOnce(&mut World) -> Result<T, Refusal>,
    ) -> Reply<T> {
        let mut after_ms = self.rng.range(1, 12);
        if let Some(failure) = self.turned_away(call, &mut after_ms) {
            self.count_refusal(&failure);
            return Reply { after_ms, result: Err(failure) };
        }
        let lost = self.faults_on && self.fault_rng.chance(self.plan.lost_per_mille);
        if lost && self.fault_rng.chance(300) {
            // It never arrived.
            self.coverage.lost_answers += 1;
            return Reply { after_ms, result: Err(Failure::Lost) };
        }
        let garbled = self.faults_on && self.fault_rng.chance(self.plan.garbled_per_mille);
        self.penalty_ms = 0;
        let answer = apply(self);
        after_ms += self.penalty_ms;
        if let Err(refusal) = &answer {
            *self.coverage.refused.entry(refusal.code.to_string()).or_default() += 1;
        }
        if lost || garbled {
            self.coverage.lost_answers += u64::from(lost);
            self.coverage.garbled_answers += u64::from(garbled);
            if call == Call::Write && answer.is_ok() {
                self.coverage.lost_after_applying += 1;
            }
            let timeout = lost && self.fault_rng.chance(500);
            let failure =
                if timeout { Failure::Status(Refusal::trouble(504)) } else { Failure::Lost };
            self.count_refusal(&failure);
            return Reply { after_ms, result: Err(failure) };
        }
        Reply { after_ms, result: answer.map_err(Failure::Status) }
    }

    /// What ends a call before the server has looked at it; or makes it slow.
    fn turned_away(&mut self, call: Call, after_ms: &mut u64) -> Option<Failure> {
        if let Some(kind) = self.plan.outage_at(self.now) {
            let failure = match kind {
                OutageKind::Down => Failure::Lost,
                OutageKind::Unauthorized => Failure::Status(Refusal::unauthorized()),
                OutageKind::Throttled => Failure::Status(Refusal::flow_control()),
                OutageKind::NoLeader if call == Call::Read => return None,
                OutageKind::NoLeader => Failure::Status(Refusal::trouble(504)),
            };
            *self.coverage.outages.entry(format!("{kind:?}")).or_default() += 1;
            return Some(failure);
        }
        if !self.faults_on {
            return None;
        }
        if self.fault_rng.chance(self.plan.flow_control_per_mille) {
            self.coverage.flow_control_429 += 1;
            return Some(Failure::Status(Refusal::flow_control()));
        }
        if self.fault_rng.chance(self.plan.server_error_per_mille) {
            self.coverage.server_errors += 1;
            let code = if self.fault_rng.chance(500) { 500 } else { 503 };
            return Some(Failure::Status(Refusal::trouble(code)));
        }
        if self.fault_rng.chance(self.plan.slow_per_mille) {
            self.coverage.slow_answers += 1;
            *after_ms += self.fault_rng.range(500, 8000);
        }
        if call == Call::Read {
            return None;
        }
        if self.fault_rng.chance(self.plan.conflict_per_mille) {
            return Some(Failure::Status(Refusal::modified("nodes", "", "raced")));
        }
        if self.fault_rng.chance(self.plan.invalid_per_mille) {
            let why = "Invalid value: an admission plugin objects";
            return Some(Failure::Status(Refusal::invalid("Node", "", "raced", "spec", why)));
        }
        None
    }

    fn count_refusal(&mut self, failure: &Failure) {
        if let Failure::Status(refusal) = failure {
            *self.coverage.refused.entry(refusal.code.to_string()).or_default() += 1;
        }
    }
}
