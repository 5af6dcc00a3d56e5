//! Directories as archives: the slug of an app, its source, its cache.
//!
//! Packing is deterministic: the same files give the same bytes, so that the same build is the same blob. Unpacking
//! trusts nothing: names stay inside, sizes and counts have bounds.

mod ignore;

use std::{
    fs,
    io::{self, BufWriter, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::{Error, Result, blob::Digest};

pub use ignore::Ignore;

/// Bounds of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of all files together.
    pub bytes: u64,
    /// The most files and directories.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: MAX_UNPACKED_BYTES,
            entries: MAX_ENTRIES,
        }
    }
}

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// The size of the archive.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// Packs the directory `dir` into the gzipped archive `to`. It blocks.
///
/// Left out is `.git`, and what `ignore` names. Owners and times are not kept: owner 0, and 1980, the first year that
/// ZIP knows.
///
/// # Errors
///
/// [`Error::TooLarge`] when the archive would be larger than `limit`; [`Error::Storage`].
pub fn pack(dir: &Path, to: &Path, ignore: &Ignore, limit: u64) -> Result<Packed> {
    let operation = || Error::storage(format!("pack {}", dir.display()));
    let file = fs::File::create(to).map_err(operation())?;
    let counted = Counted {
        inner: BufWriter::new(file),
        hasher: Sha256::new(),
        size: 0,
        limit,
    };
    let mut archive = tar::Builder::new(GzEncoder::new(counted, Compression::fast()));
    let packed = add_dir(&mut archive, dir, Path::new(""), ignore)
        .and_then(|()| archive.into_inner()?.finish())
        .and_then(|mut counted| {
            counted.inner.flush()?;
            Ok(counted)
        });
    match packed {
        Ok(counted) => Ok(Packed {
            size: counted.size,
            sha256: Digest::finish(counted.hasher),
        }),
        Err(error) if error.get_ref().is_some_and(|e| e.is::<OverLimit>()) => {
            Err(Error::TooLarge {
                what: "the archive".to_owned(),
                limit,
            })
        }
        Err(error) => Err(operation()(error)),
    }
}

fn add_dir<W: Write>(
    archive: &mut tar::Builder<W>,
    root: &Path,
    relative: &Path,
    ignore: &Ignore,
) -> io::Result<()> {
    let mut entries = fs::read_dir(root.join(relative))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = relative.join(entry.file_name());
        let kind = entry.file_type()?;
        if path == Path::new(".git") || ignore.matches(&path, kind.is_dir()) {
            continue;
        }
        let mut header = Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MTIME);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            archive.append_data(&mut header, &path, io::empty())?;
            add_dir(archive, root, &path, ignore)?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, &path, fs::read_link(entry.path())?)?;
        } else if kind.is_file() {
            let file = fs::File::open(entry.path())?;
            let metadata = file.metadata()?;
            let is_executable = metadata.permissions().mode() & 0o111 != 0;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if is_executable { 0o755 } else { 0o644 });
            header.set_size(metadata.len());
            archive.append_data(&mut header, &path, file.take(metadata.len()))?;
        }
        // Sockets, pipes and devices are no part of an app.
    }
    Ok(())
}

/// Unpacks the archive `from`, gzipped or not, into the directory `dir`, which should be empty. It blocks.
///
/// Only files, directories and links are made; nothing is written outside `dir`.
///
/// # Errors
///
/// [`Error::Invalid`] when `from` is not an archive or one of its names leaves `dir`; [`Error::TooLarge`] over a bound;
/// [`Error::Storage`].
pub fn unpack(from: impl Read, dir: &Path, limits: Limits) -> Result<()> {
    let mut from = io::BufReader::new(from);
    let is_gzipped = io::BufRead::fill_buf(&mut from)
        .map_err(Error::storage("read an archive"))?
        .starts_with(&[0x1f, 0x8b]);
    if is_gzipped {
        unpack_tar(flate2::bufread::MultiGzDecoder::new(from), dir, limits)
    } else {
        unpack_tar(from, dir, limits)
    }
}

fn unpack_tar(from: impl Read, dir: &Path, limits: Limits) -> Result<()> {
    let bad = |e: io::Error| Error::invalid("archive", e.to_string());
    fs::create_dir_all(dir).map_err(Error::storage(format!("create {}", dir.display())))?;
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_mtime(false);
    archive.set_overwrite(true);
    let (mut bytes, mut count) = (0_u64, 0_u64);
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let path = entry.path().map_err(bad)?.into_owned();
        count += 1;
        bytes = bytes.saturating_add(entry.size());
        if count > limits.entries {
            return Err(Error::TooLarge {
                what: format!("the archive's {count} entries"),
                limit: limits.entries,
            });
        }
        if bytes > limits.bytes {
            return Err(Error::TooLarge {
                what: "the unpacked archive".to_owned(),
                limit: limits.bytes,
            });
        }
        if !stays_inside(&path) {
            return Err(Error::invalid(
                format!("archive entry {}", path.display()),
                "its name leaves the directory",
            ));
        }
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            continue;
        }
        // `unpack_in` refuses to follow a link out of `dir`, for a file's parents and a hard link's target.
        let unpacked = entry
            .unpack_in(dir)
            .map_err(Error::storage(format!("unpack {}", path.display())))?;
        if !unpacked {
            return Err(Error::invalid(
                format!("archive entry {}", path.display()),
                "its name leaves the directory",
            ));
        }
    }
    Ok(())
}

fn stays_inside(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// A temporary file beside which archives are made.
pub(crate) fn temporary_dir(purpose: &str, within: Option<&PathBuf>) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    let prefix = format!("flynn-{purpose}-");
    builder.prefix(&prefix);
    match within {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    }
    .map_err(Error::storage("make a temporary directory"))
}

struct Counted<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
    limit: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        if self.size > self.limit {
            return Err(io::Error::other(OverLimit));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the archive is over its limit")]
struct OverLimit;

/// The first moment of 1980 in UTC: earlier times cannot be stored in ZIP files, which some package tools make.
const MTIME: u64 = 315_532_800;

/// The most bytes that are unpacked: 2 GiB.
pub const MAX_UNPACKED_BYTES: u64 = 2 << 30;

/// The most entries that are unpacked.
pub const MAX_ENTRIES: u64 = 300_000;

/// The largest slug: 1 GiB.
pub const MAX_SLUG_BYTES: u64 = 1 << 30;

/// The largest cache that is kept between builds: 512 MiB.
pub const MAX_CACHE_BYTES: u64 = 512 << 20;
