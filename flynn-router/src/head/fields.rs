//! Header lines, found by their place in the buffer.

use std::ops::Range;

/// A piece of a buffer.
pub(crate) type Span = Range<usize>;

/// The place of `part` in `whole`, which it is a part of.
pub(super) fn span(whole: &[u8], part: &[u8]) -> Span {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

/// One header line.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) role: Role,
}

/// What a header line is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Passed on as it is.
    EndToEnd,
    /// For this connection only, by its name or because `Connection` names it.
    HopByHop,
    Connection,
    ContentLength,
    TransferEncoding,
    Upgrade,
    Host,
    Expect,
    Cookie,
    RequestId,
    RequestStart,
    ForwardedFor,
    ForwardedProto,
    ForwardedPort,
    ForwardedHost,
}

impl Role {
    fn of(name: &[u8]) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        // By length first: most names are compared with one or two others.
        match name.len() {
            2 if is("te") => Self::HopByHop,
            4 if is("host") => Self::Host,
            6 if is("cookie") => Self::Cookie,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::HopByHop,
            12 if is("x-request-id") => Self::RequestId,
            14 if is("content-length") => Self::ContentLength,
            15 if is("x-request-start") => Self::RequestStart,
            15 if is("x-forwarded-for") => Self::ForwardedFor,
            16 if is("x-forwarded-port") => Self::ForwardedPort,
            16 if is("x-forwarded-host") => Self::ForwardedHost,
            16 if is("proxy-connection") => Self::HopByHop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::ForwardedProto,
            _ => Self::EndToEnd,
        }
    }

    /// Naming it in `Connection` must not remove it: the length of the message and its host are not the sender's to hide.
    fn is_protected(self) -> bool {
        matches!(
            self,
            Self::ContentLength | Self::TransferEncoding | Self::Host | Self::Connection
        )
    }
}

/// The header lines of one message and what `Connection` said.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    lines: Vec<Field>,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Fields {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.lines.iter()
    }

    /// All lines with this role.
    pub(crate) fn with(&self, role: Role) -> impl Iterator<Item = &Field> {
        self.lines.iter().filter(move |field| field.role == role)
    }

    /// The only line with this role; `Err` if there are several.
    pub(super) fn single(&self, role: Role) -> Result<Option<&Field>, ()> {
        let mut lines = self.with(role);
        match (lines.next(), lines.next()) {
            (first, None) => Ok(first),
            (_, Some(_)) => Err(()),
        }
    }

    pub(super) fn read(&mut self, buffer: &[u8], headers: &[httparse::Header<'_>]) {
        self.lines.clear();
        (self.close, self.keep_alive, self.upgrade) = (false, false, false);
        let mut has_connection = false;
        for header in headers {
            let role = Role::of(header.name.as_bytes());
            has_connection |= role == Role::Connection;
            self.lines.push(Field {
                name: span(buffer, header.name.as_bytes()),
                value: span(buffer, header.value),
                role,
            });
        }
        if has_connection {
            self.read_connection(buffer, headers);
        }
    }

    fn read_connection(&mut self, buffer: &[u8], headers: &[httparse::Header<'_>]) {
        let values = headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case("connection"))
            .flat_map(|h| h.value.split(|b| *b == b','))
            .map(<[u8]>::trim_ascii);
        for option in values {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                let named = self.lines.iter_mut().filter(|field| {
                    !field.role.is_protected()
                        && buffer[field.name.clone()].eq_ignore_ascii_case(option)
                });
                named.for_each(|field| field.role = Role::HopByHop);
            }
        }
    }
}
