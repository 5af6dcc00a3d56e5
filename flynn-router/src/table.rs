//! Which route a request takes: pure longest match, built whole and swapped whole.

use std::collections::HashMap;

use crate::{Domain, PathPrefix};

/// Routes by host and path. A lookup allocates nothing.
///
/// The host decides first: a route for exactly this host, then wildcards from the most specific, then `*`. Among the
/// routes of one host the longest path prefix by whole segments wins. A host whose routes do not cover the path leaves
/// the request to the next wildcard.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    hosts: HashMap<Box<str>, Paths<T>>,
    /// By the name behind `*.`.
    wildcards: HashMap<Box<str>, Paths<T>>,
    any: Paths<T>,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            any: Paths::default(),
        }
    }
}

impl<T> RouteTable<T> {
    /// The table of `routes`. Of two for the same domain and path, the later one counts.
    pub fn build<'r>(routes: impl IntoIterator<Item = (&'r Domain, &'r PathPrefix, T)>) -> Self {
        let mut table = Self::default();
        for (domain, path, target) in routes {
            let paths = match domain.wildcard() {
                None => table.hosts.entry(domain.as_str().into()).or_default(),
                Some("") => &mut table.any,
                Some(name) => table.wildcards.entry(name.into()).or_default(),
            };
            paths.insert(path, target);
        }
        table
    }

    /// The target for `path` on `host`. The host is lower case, without port and without a dot at its end.
    #[must_use]
    pub fn lookup(&self, host: &str, path: &str) -> Option<&T> {
        let exact = self.hosts.get(host).and_then(|paths| paths.lookup(path));
        exact
            .or_else(|| self.lookup_wildcards(host, path))
            .or_else(|| self.any.lookup(path))
    }

    fn lookup_wildcards(&self, host: &str, path: &str) -> Option<&T> {
        if self.wildcards.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            let paths = self.wildcards.get(parent);
            if let Some(target) = paths.and_then(|paths| paths.lookup(path)) {
                return Some(target);
            }
            rest = parent;
        }
        None
    }

    /// All targets, in no particular order.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.hosts
            .values()
            .chain(self.wildcards.values())
            .chain([&self.any])
            .flat_map(|paths| paths.by_prefix.values())
    }
}

/// The routes of one host.
#[derive(Debug, Clone)]
struct Paths<T> {
    /// By prefix without the slash at its end; every path is the empty one.
    by_prefix: HashMap<Box<str>, T>,
    /// The most segments of any prefix: a lookup tries no more than that.
    deepest: usize,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        let by_prefix = HashMap::new();
        Self {
            by_prefix,
            deepest: 0,
        }
    }
}

impl<T> Paths<T> {
    fn insert(&mut self, prefix: &PathPrefix, target: T) {
        let bare = prefix.as_str().trim_end_matches('/');
        self.deepest = self.deepest.max(bare.matches('/').count());
        self.by_prefix.insert(bare.into(), target);
    }

    fn lookup(&self, path: &str) -> Option<&T> {
        if self.by_prefix.is_empty() {
            return None;
        }
        // What is no path, such as the `*` of OPTIONS, is under the root only.
        let mut end = match path.starts_with('/') {
            true => path
                .match_indices('/')
                .nth(self.deepest)
                .map_or(path.len(), |(i, _)| i),
            false => 0,
        };
        loop {
            let found = self.by_prefix.get(&path[..end]);
            if found.is_some() || end == 0 {
                return found;
            }
            end = path[..end].rfind('/').unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests;
