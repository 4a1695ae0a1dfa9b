//! What a route names as worth another try, in the form in which it is asked.

use crate::resilience::settings::Condition;

/// A set of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conditions {
    pub connect: bool,
    pub refused: bool,
    pub reset: bool,
    pub timeout: bool,
    /// One bit a status, 0 to 1023.
    pub statuses: [u64; 16],
    /// One bit a gRPC code.
    pub grpc: u32,
}

impl Conditions {
    const NONE: Conditions = Conditions {
        connect: false,
        refused: false,
        reset: false,
        timeout: false,
        statuses: [0; 16],
        grpc: 0,
    };

    fn add(&mut self, condition: &Condition) {
        match condition {
            Condition::Connect => self.connect = true,
            Condition::Refused => self.refused = true,
            Condition::Reset => self.reset = true,
            Condition::Timeout => self.timeout = true,
            Condition::Gateway => (502..=504).for_each(|status| self.add_status(status)),
            Condition::ServerError => (500..=599).for_each(|status| self.add_status(status)),
            Condition::Status(status) => self.add_status(status.code().as_u16()),
            Condition::Grpc(codes) => codes
                .iter()
                .for_each(|code| self.grpc |= 1 << code.number()),
        }
    }

    fn add_status(&mut self, status: u16) {
        if let Some(word) = self.statuses.get_mut(usize::from(status / 64)) {
            *word |= 1 << (status % 64);
        }
    }

    pub fn has_status(&self, status: u16) -> bool {
        let word = self.statuses.get(usize::from(status / 64));
        word.is_some_and(|word| word & (1 << (status % 64)) != 0)
    }

    pub fn has_grpc(&self, code: u8) -> bool {
        self.grpc & 1u32.checked_shl(u32::from(code)).unwrap_or(0) != 0
    }
}

impl From<&[Condition]> for Conditions {
    fn from(conditions: &[Condition]) -> Self {
        let mut set = Self::NONE;
        conditions.iter().for_each(|condition| set.add(condition));
        set
    }
}
