//! Where a body ends: pure, strict, and without copying.

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks, each with its length.
    Chunked,
    /// Until the connection ends: responses only.
    UntilClose,
}

impl Framing {
    /// Is it known that there is no byte of a body?
    pub(crate) fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// Follows a body through the pieces that arrive.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// What [`Body::next`] found at the beginning of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// So many bytes of framing.
    Frame(usize),
    /// So many bytes of the body itself.
    Data(usize),
    /// The body ended before these bytes.
    End,
}

/// The sender broke the rules of chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadChunk;

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked(Chunks::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Has it ended?
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Done,
            Self::UntilClose => false,
        }
    }

    /// What the next of `bytes` are. There must be at least one, or the body be done.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Part, BadChunk> {
        if self.is_done() {
            return Ok(Part::End);
        }
        match self {
            Self::Length(left) => {
                let n = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= n as u64;
                Ok(Part::Data(n))
            }
            Self::Chunked(chunks) => chunks.next(bytes),
            Self::UntilClose => Ok(Part::Data(bytes.len())),
        }
    }

    /// How many of `bytes` belong to the body with its framing.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.next(&bytes[taken..])? {
                Part::Frame(n) | Part::Data(n) => taken += n,
                Part::End => break,
            }
        }
        Ok(taken)
    }
}

/// Follows a body in chunked coding. Lines end in CR LF and nothing else, so nobody can read them differently.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chunks {
    state: State,
    /// Of the chunk: read while in `Size`, left while in `Data`.
    size: u64,
    /// How many bytes of extensions, or of trailers, there have been.
    spent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    SizeFirst,
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataEnd,
    LineFirst,
    Line,
    LineEnd,
    LastEnd,
    Done,
}

impl Chunks {
    /// The longest extension of a chunk, in bytes.
    const MAX_EXTENSION: usize = 1024;
    /// The most trailers, in bytes.
    const MAX_TRAILERS: usize = 16 * 1024;

    fn next(&mut self, bytes: &[u8]) -> Result<Part, BadChunk> {
        if self.state == State::Data {
            let n = usize::try_from(self.size)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            self.size -= n as u64;
            if self.size == 0 {
                self.state = State::DataCr;
            }
            return Ok(Part::Data(n));
        }
        let mut taken = 0;
        for &byte in bytes {
            self.step(byte)?;
            taken += 1;
            if matches!(self.state, State::Data | State::Done) {
                break;
            }
        }
        Ok(Part::Frame(taken))
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.state = match (self.state, byte) {
            (State::SizeFirst | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // Room for one more digit: no chunk is larger than 2^60 bytes.
                if self.size >> 56 != 0 {
                    return Err(BadChunk);
                }
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                self.size = self.size << 4 | u64::from(digit);
                State::Size
            }
            (State::Size, b';') => {
                self.spent = 0;
                State::Extension
            }
            (State::Size | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b) => self.spend(b, Self::MAX_EXTENSION, State::Extension)?,
            (State::SizeEnd, b'\n') if self.size > 0 => State::Data,
            (State::SizeEnd, b'\n') => {
                self.spent = 0;
                State::LineFirst
            }
            (State::DataCr, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::SizeFirst,
            (State::LineFirst, b'\r') => State::LastEnd,
            // A line that begins with a space would continue the one before.
            (State::LineFirst, b' ' | b'\t' | b':') => return Err(BadChunk),
            (State::Line, b'\r') => State::LineEnd,
            (State::LineFirst | State::Line, b) => {
                self.spend(b, Self::MAX_TRAILERS, State::Line)?
            }
            (State::LineEnd, b'\n') => State::LineFirst,
            (State::LastEnd, b'\n') => State::Done,
            _ => return Err(BadChunk),
        };
        Ok(())
    }

    fn spend(&mut self, byte: u8, most: usize, next: State) -> Result<State, BadChunk> {
        self.spent += 1;
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        if is_text && self.spent <= most {
            Ok(next)
        } else {
            Err(BadChunk)
        }
    }
}

#[cfg(test)]
mod tests;
