//! The head of a response.

use std::mem::MaybeUninit;

use super::{BadResponse, Fields, MAX_FIELDS, Role, Span, content_length, fields::span};
use crate::body::Framing;

/// The head of a response, as places in the buffer it was read into.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// How many bytes of the buffer it takes.
    pub(crate) len: usize,
    pub(crate) status: u16,
    pub(crate) reason: Span,
    is_http_10: bool,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self {
            len: 0,
            status: 0,
            reason: 0..0,
            is_http_10: false,
            fields: Fields::default(),
            framing: Framing::None,
        }
    }
}

impl ResponseHead {
    /// Parses the head at the beginning of `buffer`; `false` if it is not there as a whole yet.
    pub(crate) fn parse(&mut self, buffer: &[u8], is_head: bool) -> Result<bool, BadResponse> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, buffer, &mut headers) {
            Ok(httparse::Status::Complete(len)) => self.len = len,
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(BadResponse("too many header lines"));
            }
            Err(_) => return Err(BadResponse("not HTTP")),
        }
        self.status = response.code.unwrap_or_default();
        if !(100..1000).contains(&self.status) {
            return Err(BadResponse("a status that is not one"));
        }
        let reason = response.reason.unwrap_or_default();
        // httparse gives a reason that is missing as a literal of its own.
        self.reason = if reason.is_empty() {
            0..0
        } else {
            span(buffer, reason.as_bytes())
        };
        self.is_http_10 = response.version == Some(0);
        self.fields.read(buffer, response.headers);
        self.framing = self.read_framing(buffer, is_head)?;
        Ok(true)
    }

    /// May the backend's connection be used for another request, once the body is read?
    pub(crate) fn keeps_alive(&self) -> bool {
        let is_asked = match self.is_http_10 {
            true => self.fields.keep_alive && !self.fields.close,
            false => !self.fields.close,
        };
        is_asked && self.framing != Framing::UntilClose
    }

    /// Is this not yet the answer, but word about it (`100 Continue`, `103 Early Hints`)?
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    fn read_framing(&self, buffer: &[u8], is_head: bool) -> Result<Framing, BadResponse> {
        let encoding = self
            .fields
            .single(Role::TransferEncoding)
            .map_err(|()| BadResponse("more than one Transfer-Encoding"))?;
        let mut length = None;
        for line in self.fields.with(Role::ContentLength) {
            let value = content_length(&buffer[line.value.clone()])
                .ok_or(BadResponse("a Content-Length that is not a number"))?;
            if length.is_some_and(|length| length != value) {
                return Err(BadResponse("two different Content-Lengths"));
            }
            length = Some(value);
        }
        if encoding.is_some() && length.is_some() {
            return Err(BadResponse("both Content-Length and Transfer-Encoding"));
        }
        let has_no_body = is_head || self.status < 200 || matches!(self.status, 204 | 304);
        match (encoding, length) {
            _ if has_no_body => Ok(Framing::None),
            (Some(line), _) => {
                let value = buffer[line.value.clone()].trim_ascii();
                if value.eq_ignore_ascii_case(b"chunked") && !self.is_http_10 {
                    Ok(Framing::Chunked)
                } else {
                    Err(BadResponse("a Transfer-Encoding other than chunked"))
                }
            }
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::UntilClose),
        }
    }
}
