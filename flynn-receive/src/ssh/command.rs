//! What a client asks to run.

/// A command of git's own, of those that go over SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GitCommand {
    /// `git-receive-pack '<app>.git'`: the client pushes.
    ReceivePack {
        /// The app.
        app: String,
    },
    /// `git-upload-pack` or `git-upload-archive`: the client fetches or clones.
    UploadPack {
        /// The app.
        app: String,
    },
}

impl GitCommand {
    /// Parses a command line; `None` for anything that is not git's.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let line = line
            .strip_prefix("git-")
            .or_else(|| line.strip_prefix("git "))?;
        let (program, argument) = line.split_once(' ')?;
        let path = unquote(argument.trim())?;
        let path = path.trim_matches('/').strip_prefix("~/").map_or_else(
            || path.trim_matches('/').to_owned(),
            |below_home| below_home.to_owned(),
        );
        let app = path.strip_suffix(".git").unwrap_or(&path).to_owned();
        match program {
            "receive-pack" => Some(Self::ReceivePack { app }),
            "upload-pack" | "upload-archive" => Some(Self::UploadPack { app }),
            _ => None,
        }
    }
}

/// One word, quoted as git quotes: in single quotes, with `'\''` and `'\!'` for what cannot stand in them.
fn unquote(text: &str) -> Option<String> {
    let Some(inner) = text.strip_prefix('\'') else {
        let is_plain = !text.contains(|c: char| c.is_whitespace() || "'\"\\$`;&|<>".contains(c));
        return (is_plain && !text.is_empty()).then(|| text.to_owned());
    };
    let mut word = String::new();
    let mut rest = inner;
    loop {
        let (part, after) = rest.split_once('\'')?;
        word.push_str(part);
        if after.is_empty() {
            return Some(word);
        }
        let mut chars = after.strip_prefix('\\')?.chars();
        word.push(chars.next().filter(|c| matches!(c, '\'' | '!'))?);
        rest = chars.as_str().strip_prefix('\'')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_git_commands_with_one_path_are_commands() {
        let push = |app: &str| {
            Some(GitCommand::ReceivePack {
                app: app.to_owned(),
            })
        };
        assert_eq!(GitCommand::parse("git-receive-pack 'web.git'"), push("web"));
        assert_eq!(
            GitCommand::parse("git receive-pack '/web.git'"),
            push("web")
        );
        assert_eq!(GitCommand::parse("git-receive-pack web"), push("web"));
        assert_eq!(
            GitCommand::parse("git-receive-pack '~/web.git/'"),
            push("web")
        );
        assert_eq!(
            GitCommand::parse(r"git-receive-pack 'it'\''s.git'"),
            push("it's")
        );
        assert_eq!(
            GitCommand::parse("git-upload-pack 'web.git'"),
            Some(GitCommand::UploadPack {
                app: "web".to_owned()
            })
        );
        for other in [
            "",
            "ls",
            "git-receive-pack",
            "git-receive-pack 'a' 'b'",
            "git-receive-pack a; ls",
            "git-receive-pack 'a",
            "git-shell",
            "sh -c 'git-receive-pack a'",
            "git-lfs-authenticate 'a' upload",
        ] {
            assert_eq!(GitCommand::parse(other), None, "{other}");
        }
    }
}
