//! Which refs a push changes, and whether that can be deployed.

use crate::{Error, Result};

/// One ref that a push would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    /// The commit it would name; zeros when it would be deleted.
    pub(crate) new: String,
    /// Its full name.
    pub(crate) name: String,
}

impl Update {
    /// Parses a line `<old> <new> <name>`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let (_old, new, name) = (words.next()?, words.next()?, words.next()?);
        let is_hash = new.len() >= 40 && new.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then(|| Self {
            new: new.to_owned(),
            name: name.to_owned(),
        })
    }

    fn deletes(&self) -> bool {
        self.new.bytes().all(|b| b == b'0')
    }
}

/// The one commit that a push asks to deploy.
///
/// # Errors
///
/// [`Error::Refused`] with the sentence that says what can be pushed.
pub(crate) fn deployable(updates: &[Update]) -> Result<&Update> {
    if let Some(deleted) = updates.iter().find(|update| update.deletes()) {
        return Err(Error::refused(format!(
            "{} cannot be deleted here: to remove the app itself use `flynn delete`",
            short(&deleted.name)
        )));
    }
    if let Some(other) = updates
        .iter()
        .find(|update| !DEPLOYED.contains(&&*update.name))
    {
        let name = short(&other.name);
        return Err(Error::refused(format!(
            "{name} is not deployed, only main or master is: push it as `git push <remote> {name}:main`"
        )));
    }
    match updates {
        [one] => Ok(one),
        [] => Err(Error::refused("nothing was pushed: push main or master")),
        _ => Err(Error::refused(
            "main and master were pushed at once: push the one that shall be deployed",
        )),
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("refs/heads/")
        .or_else(|| name.strip_prefix("refs/tags/"))
        .unwrap_or(name)
}

const DEPLOYED: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "1111111111111111111111111111111111111111";
    const NONE: &str = "0000000000000000000000000000000000000000";

    fn decide(updates: &[(&str, &str)]) -> String {
        let updates: Vec<_> = updates
            .iter()
            .map(|(new, name)| Update::parse(&format!("{NONE} {new} {name}")).unwrap())
            .collect();
        deployable(&updates).map_or_else(|e| e.to_string(), |update| update.name.clone())
    }

    #[test]
    fn one_of_main_and_master_is_deployed_and_nothing_else() {
        let (main, master) = ("refs/heads/main", "refs/heads/master");
        assert_eq!(decide(&[(COMMIT, main)]), main);
        assert_eq!(decide(&[(COMMIT, master)]), master);
        assert_eq!(
            decide(&[(COMMIT, main), (COMMIT, "refs/heads/feature/x")]),
            "feature/x is not deployed, only main or master is: push it as `git push <remote> feature/x:main`"
        );
        assert_eq!(
            decide(&[(COMMIT, "refs/tags/v1")]),
            "v1 is not deployed, only main or master is: push it as `git push <remote> v1:main`"
        );
        assert_eq!(
            decide(&[(NONE, main)]),
            "main cannot be deleted here: to remove the app itself use `flynn delete`"
        );
        assert!(decide(&[(COMMIT, main), (COMMIT, master)]).starts_with("main and master"));
        assert!(decide(&[]).starts_with("nothing was pushed"));
    }

    #[test]
    fn a_line_that_is_no_update_is_none() {
        assert_eq!(Update::parse("a b"), None);
        assert_eq!(
            Update::parse(&format!("{NONE} --exec=x refs/heads/main")),
            None
        );
    }
}
