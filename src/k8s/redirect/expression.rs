//! The steps that nf_tables takes for a rule, and their shape on the wire.
//!
//! A step loads something into a register, compares what is there, or ends the rule. We use one register, and read only
//! the steps that we write.

use super::message::{Attributes, attribute, attributes, number, text};

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads a fact of the packet.
    Meta(u32),
    /// Loads bytes of the packet.
    Payload(Field),
    /// Keeps the bits of this mask.
    Mask(Vec<u8>),
    /// Ends the rule unless it is so: one of [`compare`], and the value on the right.
    Compare(u32, Vec<u8>),
    /// Connections that came here.
    Counter(u64),
    /// Loads this value.
    Value(Vec<u8>),
    /// Redirects to the port that is loaded.
    Redirect,
    Accept,
    Goto(String),
}

/// Bytes of a packet: `length` of them, `offset` from the beginning of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    pub base: u32,
    pub offset: u32,
    pub length: u32,
}

// The kernel's names and numbers: linux/netfilter/nf_tables.h.

/// Which header a field is in.
pub(super) mod base {
    pub(in super::super) const NETWORK: u32 = 1;
    pub(in super::super) const TRANSPORT: u32 = 2;
}

/// Facts of a packet.
pub(super) mod meta {
    pub(in super::super) const IN_NAME: u32 = 6;
    pub(in super::super) const OUT_NAME: u32 = 7;
    pub(in super::super) const USER: u32 = 10;
    pub(in super::super) const FAMILY: u32 = 15;
    pub(in super::super) const PROTOCOL: u32 = 16;
}

/// Comparisons.
pub(super) mod compare {
    pub(in super::super) const EQUAL: u32 = 0;
    pub(in super::super) const UNEQUAL: u32 = 1;
    pub(in super::super) const AT_MOST: u32 = 3;
    pub(in super::super) const AT_LEAST: u32 = 5;
}

const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const ACCEPT: i32 = 1;
const GOTO: i32 = -4;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the port is given.
const WITH_PORT: u32 = 2;

/// Steps as a list of attributes.
pub(super) fn encode(steps: &[Expression]) -> Attributes {
    let one = |list: Attributes, step: &Expression| list.nest(ELEMENT, step.encode());
    steps.iter().fold(Attributes::default(), one)
}

/// The steps of a list; none where one is not of our kind.
pub(super) fn decode(list: &[u8]) -> Option<Vec<Expression>> {
    attributes(list)
        .map(|(_, one)| Expression::decode(one))
        .collect()
}

impl Expression {
    fn encode(&self) -> Attributes {
        let (name, data) = match self {
            Expression::Meta(key) => (
                "meta",
                Attributes::default().number(1, REGISTER).number(2, *key),
            ),
            Expression::Payload(Field {
                base,
                offset,
                length,
            }) => {
                let data = Attributes::default().number(1, REGISTER).number(2, *base);
                ("payload", data.number(3, *offset).number(4, *length))
            }
            Expression::Mask(mask) => {
                let data = Attributes::default()
                    .number(1, REGISTER)
                    .number(2, REGISTER);
                let data = data.number(3, u32::try_from(mask.len()).expect("an address"));
                (
                    "bitwise",
                    data.nest(4, value(mask))
                        .nest(5, value(&vec![0; mask.len()])),
                )
            }
            Expression::Compare(operation, with) => {
                let data = Attributes::default()
                    .number(1, REGISTER)
                    .number(2, *operation);
                ("cmp", data.nest(3, value(with)))
            }
            // Both start at zero by themselves.
            Expression::Counter(_) => ("counter", Attributes::default()),
            Expression::Value(port) => (
                "immediate",
                Attributes::default()
                    .number(1, REGISTER)
                    .nest(2, value(port)),
            ),
            Expression::Redirect => (
                "redir",
                Attributes::default()
                    .number(1, REGISTER)
                    .number(3, WITH_PORT),
            ),
            Expression::Accept => ("immediate", verdict(ACCEPT, None)),
            Expression::Goto(chain) => ("immediate", verdict(GOTO, Some(chain))),
        };
        Attributes::default().text(NAME, name).nest(DATA, data)
    }

    fn decode(one: &[u8]) -> Option<Self> {
        let data = attribute(one, DATA).unwrap_or_default();
        let value = |kind: u16| attribute(attribute(data, kind)?, 1).map(<[u8]>::to_vec);
        let in_register = |kind: u16| number(data, kind) == Some(REGISTER);
        Some(match text(one, NAME)? {
            "meta" if in_register(1) => Expression::Meta(number(data, 2)?),
            "payload" if in_register(1) => Expression::Payload(Field {
                base: number(data, 2)?,
                offset: number(data, 3)?,
                length: number(data, 4)?,
            }),
            "bitwise" if in_register(1) && in_register(2) => {
                let turned = value(5).is_some_and(|turned| turned.iter().any(|byte| *byte != 0));
                Expression::Mask(value(4).filter(|_| !turned)?)
            }
            "cmp" if in_register(1) => Expression::Compare(number(data, 2)?, value(3)?),
            "counter" => {
                let packets = attribute(data, 2)?.try_into().ok()?;
                Expression::Counter(u64::from_be_bytes(packets))
            }
            "immediate" if in_register(1) => Expression::Value(value(2)?),
            "immediate" => {
                let verdict = attribute(attribute(data, 2)?, 2)?;
                match number(verdict, 1)?.cast_signed() {
                    ACCEPT => Expression::Accept,
                    GOTO => Expression::Goto(text(verdict, 2)?.to_owned()),
                    _ => return None,
                }
            }
            "redir" if in_register(1) => Expression::Redirect,
            _ => return None,
        })
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut verdict = Attributes::default().number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        verdict = verdict.text(2, chain);
    }
    let data = Attributes::default().nest(2, verdict);
    Attributes::default()
        .number(1, VERDICT_REGISTER)
        .nest(2, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::redirect::{message::Messages, message::messages, plan, spelling};

    #[test]
    fn every_step_of_a_plan_is_read_as_it_was_written() {
        let table = plan::tests::plan().table().unwrap();
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            let mut steps = spelling::steps(rule);
            // The kernel fills in a counter's value; without it there is none to read.
            steps.retain(|step| *step != Expression::Counter(0));
            let mut sent = Messages::default();
            sent.push(0, 0, &[], &encode(&steps));
            let message = messages(sent.bytes()).next().unwrap();
            assert_eq!(decode(message.body), Some(steps));
        }
    }

    #[test]
    fn a_step_that_we_do_not_take_is_not_read() {
        let list = |name: &str| {
            let step = Attributes::default()
                .text(NAME, name)
                .nest(DATA, Attributes::default());
            let mut sent = Messages::default();
            sent.push(0, 0, &[], &Attributes::default().nest(ELEMENT, step));
            let message = messages(sent.bytes()).next().unwrap();
            decode(message.body)
        };
        for name in ["lookup", "meta", "redir", ""] {
            assert_eq!(list(name), None, "{name}");
        }
    }
}
