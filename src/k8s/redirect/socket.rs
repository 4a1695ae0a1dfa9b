//! A netlink socket: one datagram of messages out, the kernel's answers in.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink, recv, sendto, socket_with, sockopt,
    },
};

use super::message::{self, Message, Messages};

/// The largest datagram that the kernel answers with.
const LARGEST: usize = 64 * 1024;
/// How often a listing that changed under our eyes is asked for again.
const LISTINGS: usize = 16;

#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// The kernel said no to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct No {
    /// None: to the datagram as a whole.
    pub sequence: Option<u32>,
    pub why: Errno,
}

impl From<Errno> for No {
    fn from(why: Errno) -> Self {
        No {
            sequence: None,
            why,
        }
    }
}

impl No {
    pub fn cause(self) -> io::Error {
        self.why.into()
    }
}

impl Socket {
    /// None as the protocol is routing.
    pub fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map(Socket)
    }

    /// Sends the messages in one datagram; the last one asks to be acknowledged.
    ///
    /// The first refusal, if there is one. The kernel does all its work within the sending, so the answers are there
    /// when it returns.
    pub fn tell(&self, messages: &Messages) -> Result<(), No> {
        self.send(messages)?;
        let mut buffer = vec![0; LARGEST];
        let mut acknowledged = false;
        loop {
            let length = match recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                // Answers that found no room were refusals of later messages; the first is told already.
                Err(Errno::INTR | Errno::NOBUFS) => continue,
                Err(Errno::AGAIN) if acknowledged => return Ok(()),
                Err(why) => return Err(why.into()),
            };
            for answer in message::messages(&buffer[..length]) {
                if answer.kind != message::ERROR {
                    continue;
                }
                match message::refusal(answer.body) {
                    None => acknowledged = true,
                    Some(why) => {
                        let sequence = Some(answer.sequence);
                        return Err(No { sequence, why });
                    }
                }
            }
        }
    }

    /// Asks for a listing and hands over each message of it.
    pub fn list<T>(
        &self,
        question: &Messages,
        read: impl Fn(Message<'_>) -> T,
    ) -> Result<Vec<T>, No> {
        for _ in 0..LISTINGS {
            if let Some(found) = self.list_once(question, &read)? {
                return Ok(found);
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// None where what was listed changed meanwhile.
    fn list_once<T>(
        &self,
        question: &Messages,
        read: impl Fn(Message<'_>) -> T,
    ) -> Result<Option<Vec<T>>, No> {
        self.send(question)?;
        let mut buffer = vec![0; LARGEST];
        let mut found = Vec::new();
        let mut steady = true;
        loop {
            let length = match recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(why) => return Err(why.into()),
            };
            for answer in message::messages(&buffer[..length]) {
                steady &= answer.flags & message::INTERRUPTED == 0;
                match answer.kind {
                    message::DONE => return Ok(steady.then_some(found)),
                    message::ERROR => {
                        let why = message::refusal(answer.body).unwrap_or(Errno::PROTO);
                        let sequence = Some(answer.sequence);
                        return Err(No { sequence, why });
                    }
                    _ => found.push(read(answer)),
                }
            }
        }
    }

    fn send(&self, messages: &Messages) -> Result<(), Errno> {
        let bytes = messages.bytes();
        // The kernel counts its own overhead too. Where even an administrator may not, small tables still fit.
        let _ = sockopt::set_socket_send_buffer_size_force(&self.0, 2 * bytes.len() + LARGEST);
        sendto(
            &self.0,
            bytes,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )
        .map(drop)
    }
}
