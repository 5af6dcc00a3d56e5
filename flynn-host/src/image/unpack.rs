//! Unpacking an archive that nobody vouches for.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

/// What an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackLimits {
    /// Files, directories and links, together.
    pub entries: u64,
    /// Bytes, unpacked.
    pub bytes: u64,
    /// Directories within directories.
    pub depth: usize,
}

impl Default for UnpackLimits {
    /// 500,000 entries, 8 GiB, 64 deep.
    fn default() -> Self {
        Self {
            entries: 500_000,
            bytes: 8 << 30,
            depth: 64,
        }
    }
}

impl UnpackLimits {
    /// At most so many entries.
    #[must_use]
    pub fn with_entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// At most so many bytes.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }
}

/// Unpacks a tar archive, gzipped or not, into `root`.
///
/// No entry is written through a symbolic link, no hard link leads out of `root`, and relative symbolic links stay
/// inside of it. Absolute symbolic links are kept: a Python environment names the system's interpreter so. Devices and
/// pipes are refused, owners are ignored, set-user bits are dropped, times are kept.
pub(super) fn unpack(file: impl Read, root: &Path, limits: UnpackLimits) -> io::Result<()> {
    let mut file = BufReader::with_capacity(64 * 1024, file);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if is_gzip {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    // One byte more than allowed, so that an archive that is too large can be told from one that ends in time. Headers
    // count as well, which bounds archives of nothing but headers.
    let overhead = limits.entries.saturating_mul(2048);
    let mut archive = Archive::new(reader.take(limits.bytes.saturating_add(overhead)));
    let mut unpacker = Unpacker {
        root,
        limits,
        entries: 0,
        bytes: 0,
        directories: Vec::new(),
    };
    for entry in archive.entries()? {
        let mut entry = entry?;
        unpacker.entry(&mut entry)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: &'a Path,
    limits: UnpackLimits,
    entries: u64,
    bytes: u64,
    /// Their modes are set last: one without write permission must still be filled.
    directories: Vec<(PathBuf, u32)>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.entries > self.limits.entries {
            return refuse(format!("it has more than {} entries", self.limits.entries));
        }
        if self.bytes > self.limits.bytes {
            return refuse(format!(
                "it unpacks to more than {} bytes",
                self.limits.bytes
            ));
        }
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let shown = entry.path()?.into_owned();
        let relative = self.inside(&shown)?;
        if relative.as_os_str().is_empty() {
            return Ok(()); // the root itself
        }
        let path = self.root.join(&relative);
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        self.make_parents(&relative)?;
        match kind {
            EntryType::Directory => {
                if !is_real_dir(&path) {
                    clear(&path)?;
                    DirBuilder::new().mode(0o700).create(&path)?;
                }
                self.directories.push((path, mode));
            }
            EntryType::Symlink => {
                let target = target(entry, &shown)?;
                if !target.is_absolute() {
                    let parent = relative.parent().unwrap_or_else(|| Path::new(""));
                    if !stays_inside(parent, &target) {
                        return refuse(format!("the link {} leads out of it", shown.display()));
                    }
                }
                clear(&path)?;
                symlink(target, &path)?;
            }
            EntryType::Link => {
                let target = target(entry, &shown)?;
                let source = self.inside(&target)?;
                self.check_parents(&source)?;
                let source = self.root.join(source);
                if !fs::symlink_metadata(&source)?.is_file() {
                    return refuse(format!("{} links to what is no file", shown.display()));
                }
                clear(&path)?;
                fs::hard_link(source, &path)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&path)?;
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)?;
                let copied = io::copy(entry, &mut file)?;
                if copied != entry.size() {
                    return refuse(format!("it ends within {}", shown.display()));
                }
                file.set_permissions(Permissions::from_mode(mode))?;
                let time = entry.header().mtime().unwrap_or(0);
                if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time)) {
                    let _ = file.set_modified(time);
                }
            }
            _ => {
                return refuse(format!(
                    "{} is neither file, directory nor link",
                    shown.display()
                ));
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        // Innermost first, so that one that becomes unreadable does not hide the next.
        for (path, mode) in self.directories.into_iter().rev() {
            if is_real_dir(&path) {
                // We must be able to remove it some day.
                fs::set_permissions(path, Permissions::from_mode(mode | 0o700))?;
            }
        }
        Ok(())
    }

    /// The path below the root; refused if it is not.
    fn inside(&self, path: &Path) -> io::Result<PathBuf> {
        let mut inside = PathBuf::new();
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) => inside.push(name),
                _ => return refuse(format!("{} leads out of it", path.display())),
            }
        }
        if inside.components().count() > self.limits.depth {
            return refuse(format!("{} is too deep", path.display()));
        }
        Ok(inside)
    }

    fn make_parents(&self, relative: &Path) -> io::Result<()> {
        let mut path = self.root.to_owned();
        for name in relative.parent().into_iter().flat_map(Path::components) {
            path.push(name);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    return refuse(format!(
                        "{} is to be written through what is no directory",
                        relative.display()
                    ));
                }
                Err(_) => DirBuilder::new().mode(0o755).create(&path)?,
            }
        }
        Ok(())
    }

    fn check_parents(&self, relative: &Path) -> io::Result<()> {
        let mut path = self.root.to_owned();
        for name in relative.parent().into_iter().flat_map(Path::components) {
            path.push(name);
            if !is_real_dir(&path) {
                return refuse(format!("{} is not within it", relative.display()));
            }
        }
        Ok(())
    }
}

fn target(entry: &Entry<'_, impl Read>, shown: &Path) -> io::Result<PathBuf> {
    match entry.link_name()? {
        Some(target) if !target.as_os_str().is_empty() => Ok(target.into_owned()),
        _ => refuse(format!("the link {} leads nowhere", shown.display())),
    }
}

/// Does a relative link in the directory `parent` stay below the root?
fn stays_inside(parent: &Path, target: &Path) -> bool {
    let mut depth = parent.components().count();
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

fn is_real_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Makes room for a new file or link. A directory is never replaced by one.
fn clear(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        cleared => cleared,
    }
}

fn refuse<T>(why: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}
