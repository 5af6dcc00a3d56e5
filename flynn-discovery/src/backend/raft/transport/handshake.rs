//! How two members convince each other that they belong together.
//!
//! ```text
//!   connector                                        listener
//!       │  Hello { cell, from, to, incarnation, nonce }  │
//!       ├───────────────────────────────────────────────▶│
//!       │  Challenge { incarnation, nonce, proof }       │   proof = HMAC(token, "listener", both nonces, both ids)
//!       │◀───────────────────────────────────────────────┤
//!       │  Proof { proof }                               │   proof = HMAC(token, "connector", …)
//!       ├───────────────────────────────────────────────▶│
//!       │  Verdict { why }                               │   empty: welcome
//!       │◀───────────────────────────────────────────────┤
//! ```
//!
//! The token itself never travels. Frames behind the handshake are as private as the stream they are on.

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use prost::Message;
use sha2::Sha256;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::Local;
use crate::{Error, Result, Secret, backend::raft::member::MemberId};

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Frames,
    Snapshot,
}

/// What both sides of a handshake know.
#[derive(Debug)]
pub(super) struct Greeter {
    pub(super) local: Local,
    token: Secret,
    /// The run of each member that is connected, or was last.
    living: Mutex<HashMap<MemberId, Living>>,
    removed: Mutex<Vec<MemberId>>,
}

#[derive(Debug)]
struct Living {
    incarnation: u64,
    heard: Instant,
    connections: usize,
}

/// How a listener that can be trusted received this member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Welcome {
    Accepted,
    /// It knows that this member was removed, and says so in a sentence.
    Removed(String),
}

/// The other side, when it was accepted.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) peer: MemberId,
    pub(super) incarnation: u64,
    pub(super) purpose: Purpose,
}

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    cell: String,
    #[prost(fixed64, tag = "3")]
    from: u64,
    #[prost(fixed64, tag = "4")]
    to: u64,
    #[prost(fixed64, tag = "5")]
    incarnation: u64,
    #[prost(bytes = "bytes", tag = "6")]
    nonce: Bytes,
    #[prost(bool, tag = "7")]
    is_snapshot: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Challenge {
    /// Not empty: the connection is refused already.
    #[prost(string, tag = "1")]
    why: String,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(bytes = "bytes", tag = "3")]
    nonce: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    proof: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Proof {
    #[prost(bytes = "bytes", tag = "1")]
    proof: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Verdict {
    #[prost(string, tag = "1")]
    why: String,
    /// Refused for good: the connector is a member no more.
    #[prost(bool, tag = "2")]
    is_removed: bool,
}

impl Greeter {
    pub(super) fn new(local: Local, token: Secret) -> Self {
        Self {
            local,
            token,
            living: Mutex::default(),
            removed: Mutex::default(),
        }
    }

    /// Whose connections are refused from now on.
    pub(super) fn set_removed(&self, removed: &[MemberId]) {
        *self.removed.lock() = removed.to_vec();
    }

    /// Greets `to` over a stream this member opened.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the reason when either side refuses the other for another reason than a removal.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        to: MemberId,
        purpose: Purpose,
    ) -> Result<Welcome> {
        let hello = Hello {
            version: VERSION,
            cell: self.local.cell.clone(),
            from: self.local.id.get(),
            to: to.get(),
            incarnation: self.local.incarnation,
            nonce: nonce(),
            is_snapshot: purpose == Purpose::Snapshot,
        };
        write(stream, &hello).await?;
        let challenge: Challenge = read(stream).await?;
        if !challenge.why.is_empty() {
            return Err(denied(challenge.why));
        }
        let both = Both {
            hello: &hello,
            nonce: &challenge.nonce,
            incarnation: challenge.incarnation,
        };
        if !self.verify("listener", &both, &challenge.proof) {
            // It learns that it was not believed, and nothing of the token.
            let _ = write(stream, &Proof::default()).await;
            return Err(denied(format!(
                "member {to} does not have the same cluster token: start this member with the token of its cluster"
            )));
        }
        let proof = self.prove("connector", &both);
        write(stream, &Proof { proof }).await?;
        let verdict: Verdict = read(stream).await?;
        if verdict.why.is_empty() {
            Ok(Welcome::Accepted)
        } else if verdict.is_removed {
            Ok(Welcome::Removed(verdict.why))
        } else {
            Err(denied(verdict.why))
        }
    }

    /// Greets whoever opened this stream.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] with the reason when either side refuses the other.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
    ) -> Result<Greeted> {
        let hello: Hello = read(stream).await?;
        let nonce = nonce();
        if let Some(why) = self.objection(&hello) {
            let challenge = Challenge {
                why: why.clone(),
                ..Challenge::default()
            };
            let _ = write(stream, &challenge).await;
            return Err(denied(why));
        }
        let incarnation = self.local.incarnation;
        let both = Both {
            hello: &hello,
            nonce: &nonce,
            incarnation,
        };
        let challenge = Challenge {
            why: String::new(),
            incarnation,
            proof: self.prove("listener", &both),
            nonce: nonce.clone(),
        };
        write(stream, &challenge).await?;
        let proof: Proof = read(stream).await?;
        let peer = MemberId::new(hello.from)?;
        let is_believed = self.verify("connector", &both, &proof.proof);
        let is_removed = is_believed && self.removed.lock().contains(&peer);
        let why = if !is_believed {
            Some(format!(
                "member {peer} does not have the token of this cluster"
            ))
        } else if is_removed {
            Some(format!(
                "member {peer} was removed from the cluster: to have it back, remove its directory and add it again"
            ))
        } else {
            self.objection_to_twin(peer, hello.incarnation)
        };
        let verdict = Verdict {
            why: why.clone().unwrap_or_default(),
            is_removed,
        };
        write(stream, &verdict).await?;
        if let Some(why) = why {
            return Err(denied(why));
        }
        Ok(Greeted {
            peer,
            incarnation: hello.incarnation,
            purpose: if hello.is_snapshot {
                Purpose::Snapshot
            } else {
                Purpose::Frames
            },
        })
    }

    /// Something was heard of this run of the member. `false` when another run of it has been heard since, or it was
    /// removed: the connection is to end, and what it is told when it connects again says why.
    pub(super) fn hears(&self, peer: MemberId, incarnation: u64) -> bool {
        if self.removed.lock().contains(&peer) {
            return false;
        }
        let mut living = self.living.lock();
        match living.get_mut(&peer) {
            Some(known) if known.incarnation == incarnation => {
                known.heard = Instant::now();
                true
            }
            Some(_) | None => false,
        }
    }

    /// A connection of this run of the member has ended.
    pub(super) fn lost(&self, peer: MemberId, incarnation: u64) {
        let mut living = self.living.lock();
        if let Some(known) = living.get_mut(&peer)
            && known.incarnation == incarnation
        {
            known.connections -= 1;
            if known.connections == 0 {
                living.remove(&peer);
            }
        }
    }

    fn objection(&self, hello: &Hello) -> Option<String> {
        let me = self.local.id;
        let Ok(peer) = MemberId::new(hello.from) else {
            return Some("a member has an id other than 0".to_owned());
        };
        if hello.version != VERSION {
            return Some(format!(
                "member {peer} speaks version {} of the protocol, this is version {VERSION}: run the same release",
                hello.version
            ));
        }
        if hello.cell != self.local.cell {
            return Some(format!(
                "member {peer} is of cell {:?}, this is cell {:?}",
                hello.cell, self.local.cell
            ));
        }
        if hello.to != me.get() {
            return Some(format!(
                "member {peer} looks for member {:x} here, but this is {me}: correct its list of addresses",
                hello.to
            ));
        }
        if peer == me {
            return Some(twins(peer));
        }
        None
    }

    fn objection_to_twin(&self, peer: MemberId, incarnation: u64) -> Option<String> {
        let now = Instant::now();
        let mut living = self.living.lock();
        let known = living.entry(peer).or_insert(Living {
            incarnation,
            heard: now,
            connections: 0,
        });
        if known.incarnation != incarnation {
            if now < known.heard + ALIVE {
                return Some(twins(peer));
            }
            known.incarnation = incarnation;
            known.connections = 0;
        }
        known.heard = now;
        known.connections += 1;
        None
    }

    fn prove(&self, side: &str, both: &Both<'_>) -> Bytes {
        Bytes::copy_from_slice(&self.mac(side, both).finalize().into_bytes())
    }

    fn verify(&self, side: &str, both: &Both<'_>, proof: &[u8]) -> bool {
        // Compares in constant time.
        self.mac(side, both).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: &str, both: &Both<'_>) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.token.expose().as_bytes())
            .expect("a key of any length will do");
        // The hello is self-delimiting with its length before it, so no two handshakes give the same bytes.
        let hello = both.hello.encode_to_vec();
        for part in [side.as_bytes(), &hello, both.nonce] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.update(&both.incarnation.to_be_bytes());
        mac
    }
}

/// What both sides said, which both prove to have heard.
struct Both<'a> {
    hello: &'a Hello,
    nonce: &'a [u8],
    incarnation: u64,
}

fn twins(peer: MemberId) -> String {
    format!("two members have the id {peer}: give one of the two hosts another name")
}

fn denied(why: String) -> Error {
    Error::Denied { why }
}

fn nonce() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 32]>())
}

async fn write<S: AsyncWrite + Unpin + Send>(stream: &mut S, message: &impl Message) -> Result<()> {
    let body = message.encode_to_vec();
    let mut bytes = BytesMut::with_capacity(4 + body.len());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&body);
    let written = timeout(PATIENCE, stream.write_all(&bytes)).await;
    written.map_err(|_| lost("it took too long"))?.map_err(lost)
}

async fn read<M: Message + Default, S: AsyncRead + Unpin + Send>(stream: &mut S) -> Result<M> {
    let read = async {
        let len = stream.read_u32().await? as usize;
        if len > MAX_GREETING_BYTES {
            return Err(std::io::Error::other("the greeting is too long"));
        }
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    };
    let bytes = timeout(PATIENCE, read)
        .await
        .map_err(|_| lost("it took too long"))?
        .map_err(lost)?;
    M::decode(&bytes[..]).map_err(lost)
}

fn lost(error: impl std::fmt::Display) -> Error {
    Error::Protocol {
        why: format!("the greeting failed: {error}"),
    }
}

/// Of this protocol; both sides must have the same.
const VERSION: u32 = 1;

/// How long each side waits for the other's next word.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of one part of a greeting.
const MAX_GREETING_BYTES: usize = 4096;

/// A member that was heard so recently is alive.
const ALIVE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn greeter(name: &str, cell: &str, token: &str) -> Greeter {
        let local = Local {
            id: MemberId::from_name(name),
            cell: cell.to_owned(),
            incarnation: rand::random(),
        };
        Greeter::new(local, Secret::new(token))
    }

    async fn meet(a: &Greeter, b: &Greeter) -> (Result<Welcome>, Result<Greeted>) {
        let (mut left, mut right) = tokio::io::duplex(1 << 16);
        let to = b.local.id;
        tokio::join!(
            a.connect(&mut left, to, Purpose::Frames),
            b.accept(&mut right)
        )
    }

    #[tokio::test]
    async fn members_with_one_token_meet() {
        let (a, b) = (greeter("a", "cell", "token"), greeter("b", "cell", "token"));
        let (connected, accepted) = meet(&a, &b).await;
        connected.unwrap();
        assert_eq!(accepted.unwrap().peer, a.local.id);
    }

    #[tokio::test]
    async fn another_token_or_cell_is_refused_on_both_sides_in_a_sentence() {
        let b = greeter("b", "cell", "token");
        for (a, word) in [
            (greeter("a", "cell", "tokem"), "token"),
            (greeter("a", "other", "token"), "cell"),
        ] {
            let (connected, accepted) = meet(&a, &b).await;
            for error in [connected.unwrap_err(), accepted.unwrap_err()] {
                let text = error.to_string();
                assert!(matches!(error, Error::Denied { .. }), "{error:?}");
                assert!(text.contains(word), "{text}");
                assert!(!text.contains("tokem"), "{text}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_members_with_one_id_the_newer_is_refused_while_the_older_lives() {
        let b = greeter("b", "cell", "token");
        let (older, newer) = (greeter("a", "cell", "token"), greeter("a", "cell", "token"));
        meet(&older, &b).await.0.unwrap();
        meet(&older, &b).await.0.unwrap();
        let error = meet(&newer, &b).await.0.unwrap_err();
        assert!(error.to_string().contains("two members"), "{error}");
        tokio::time::advance(ALIVE).await;
        meet(&newer, &b).await.0.unwrap();
        assert!(!b.hears(older.local.id, older.local.incarnation));
    }

    #[tokio::test]
    async fn a_removed_member_hears_that_it_was_removed_until_it_is_added_again() {
        let (a, b) = (greeter("a", "cell", "token"), greeter("b", "cell", "token"));
        assert_eq!(meet(&a, &b).await.0.unwrap(), Welcome::Accepted);
        b.set_removed(&[a.local.id]);
        assert!(!b.hears(a.local.id, a.local.incarnation));
        let (welcome, accepted) = meet(&a, &b).await;
        let Welcome::Removed(why) = welcome.unwrap() else {
            panic!("a removed member was accepted");
        };
        assert!(why.contains("was removed"), "{why}");
        assert!(matches!(accepted, Err(Error::Denied { .. })));
        b.set_removed(&[]);
        assert_eq!(meet(&a, &b).await.0.unwrap(), Welcome::Accepted);
    }

    #[tokio::test]
    async fn the_token_is_never_printed() {
        let text = format!("{:?}", greeter("a", "cell", "hunter2"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
