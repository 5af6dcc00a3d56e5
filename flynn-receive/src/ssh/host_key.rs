//! The key by which clients know the server.

use std::{fmt, io, path::Path};

use russh::keys::{Algorithm, HashAlg, PrivateKey, ssh_key::LineEnding};

use crate::{Error, Result};

/// An Ed25519 host key. All receivers of a cluster share one, so that clients see one server.
#[derive(Clone)]
pub struct HostKey(PrivateKey);

impl HostKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// [`Error::Upstream`] when the system gives no randomness.
    pub fn generate() -> Result<Self> {
        let mut rng = russh::keys::key::safe_rng();
        PrivateKey::random(&mut rng, Algorithm::Ed25519)
            .map(Self)
            .map_err(|e| Error::upstream("could not make a host key", e))
    }

    /// A key in OpenSSH's form (`-----BEGIN OPENSSH PRIVATE KEY-----`).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is not that, is encrypted, or is of another kind than Ed25519.
    pub fn parse(openssh: &str) -> Result<Self> {
        let key = PrivateKey::from_openssh(openssh)
            .map_err(|e| Error::invalid("SSH host key", e.to_string()))?;
        if key.is_encrypted() || key.algorithm() != Algorithm::Ed25519 {
            return Err(Error::invalid(
                "SSH host key",
                "an Ed25519 key without a passphrase is needed (ssh-keygen -t ed25519 -N '')",
            ));
        }
        Ok(Self(key))
    }

    /// The key in the file at `path`, made and written there (for the owner alone) if it is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]; [`Error::Invalid`] when the file holds something else.
    pub fn load_or_generate(path: &Path) -> Result<Self> {
        use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};

        let failed = || Error::storage(format!("SSH host key {}", path.display()));
        match std::fs::read_to_string(path) {
            Ok(text) => return Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed()(error)),
        }
        let key = Self::generate()?;
        let fresh = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| {
                file.write_all(key.to_openssh()?.as_bytes())?;
                file.sync_all()
            })
            // Another receiver may have made one meanwhile: the first counts.
            .and_then(|()| std::fs::hard_link(&fresh, path));
        let _ = std::fs::remove_file(&fresh);
        match written {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::parse(&std::fs::read_to_string(path).map_err(failed())?)
            }
            Err(error) => Err(failed()(error)),
        }
    }

    /// The key in OpenSSH's form, to be kept secret.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded.
    pub fn to_openssh(&self) -> io::Result<String> {
        self.0
            .to_openssh(LineEnding::LF)
            .map(|text| text.to_string())
            .map_err(io::Error::other)
    }

    /// The public half, as a line for `known_hosts` without the host: `ssh-ed25519 AAAA…`.
    #[must_use]
    pub fn public_line(&self) -> String {
        let mut public = self.0.public_key().clone();
        public.set_comment("");
        public.to_openssh().unwrap_or_default()
    }

    /// `SHA256:…`, as SSH clients show it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    pub(crate) fn into_private(self) -> PrivateKey {
        self.0
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        let first = HostKey::load_or_generate(&path).unwrap();
        let second = HostKey::load_or_generate(&path).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(first.public_line().starts_with("ssh-ed25519 AAAA"));
        assert!(!format!("{first:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(HostKey::parse("nonsense").is_err());
    }
}
