//! What a network and a busy server do to a call: refuse it, lose it, apply it and lose the answer, or be slow.

use super::World;
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
        let status = |code| Err(Failure::Status(Refusal::trouble(code)));
        if self.faults_on {
            if self.fault_rng.chance(self.plan.flow_control_per_mille) {
                self.coverage.flow_control_429 += 1;
                return Reply { after_ms, result: Err(Failure::Status(Refusal::flow_control())) };
            }
            if self.fault_rng.chance(self.plan.server_error_per_mille) {
                self.coverage.server_errors += 1;
                let code = if self.fault_rng.chance(500) { 500 } else { 503 };
                return Reply { after_ms, result: status(code) };
            }
            if self.fault_rng.chance(self.plan.slow_per_mille) {
                self.coverage.slow_answers += 1;
                after_ms += self.fault_rng.range(500, 8000);
            }
        }
        let lost = self.faults_on && self.fault_rng.chance(self.plan.lost_per_mille);
        if lost && self.fault_rng.chance(300) {
            // It never arrived.
            self.coverage.lost_answers += 1;
            return Reply { after_ms, result: Err(Failure::Lost) };
        }
        self.penalty_ms = 0;
        let answer = apply(self);
        after_ms += self.penalty_ms;
        if lost {
            self.coverage.lost_answers += 1;
            if call == Call::Write && answer.is_ok() {
                self.coverage.lost_after_applying += 1;
            }
            let result = if self.fault_rng.chance(500) { status(504) } else { Err(Failure::Lost) };
            return Reply { after_ms, result };
        }
        Reply { after_ms, result: answer.map_err(Failure::Status) }
    }
}
