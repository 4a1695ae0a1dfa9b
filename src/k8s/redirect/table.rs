//! The table as a value: chains of rules, and the words for them.
//!
//! What is to be written is a `Table<Rule>`; what stands in the kernel is read as a `Table<Found>`, because someone
//! else may have put a hand to it.

use std::fmt;

/// The table's name, for every program that lists tables.
pub(super) const NAME: &str = "weft";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table<R> {
    pub chains: Vec<Chain<R>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain<R> {
    pub name: String,
    /// None: only other chains lead here.
    pub hook: Option<Hook>,
    pub rules: Vec<R>,
}

/// Where in a packet's way a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// What arrives, before it is known for whom.
    Prerouting,
    /// What leaves a process of this machine.
    Output,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "new connections that come in",
            Hook::Output => "new connections that leave",
        })
    }
}

impl<R: fmt::Display> fmt::Display for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Table `{NAME}`, IPv4 and IPv6; the first rule that fits decides."
        )?;
        for chain in &self.chains {
            match chain.hook {
                Some(hook) => writeln!(f, "\n{}: {hook}", chain.name)?,
                None => writeln!(f, "\n{}:", chain.name)?,
            }
            for rule in &chain.rules {
                writeln!(f, "  {rule}")?;
            }
        }
        Ok(())
    }
}
