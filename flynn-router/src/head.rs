//! The head of a message: parsed where it was read, and refused where two readers could understand it differently.
//!
//! What a proxy and a backend disagree about is what an attacker smuggles a request through. So everything about the
//! length of a message has one reading here, or the message is refused.

mod fields;
mod request;
mod response;

pub(crate) use self::{
    fields::{Fields, Role, Span},
    request::RequestHead,
    response::ResponseHead,
};

/// The most header lines of a message.
pub(crate) const MAX_FIELDS: usize = 100;

/// Why a request is not passed on: the status and one sentence for whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) why: &'static str,
}

impl Refusal {
    const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }
}

/// What a backend sent is not a response that can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadResponse(pub(crate) &'static str);

/// Could the head in `bytes` be complete, if the first `seen` of them were not? Saves parsing a head again for every
/// byte of a slow sender.
pub(crate) fn may_be_complete(bytes: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(3);
    seen == 0
        || bytes[from..].windows(2).any(|w| w == b"\n\n")
        || bytes[from..].windows(3).any(|w| w == b"\n\r\n")
}

/// A `Content-Length` by the letter: digits, no sign, no list.
fn content_length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok()?;
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
