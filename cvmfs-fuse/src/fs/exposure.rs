//! Who sees which attributes (spec/filesystem.md section 10): where those that are made up are
//! listed, and which ones only some groups may read.

use std::collections::BTreeSet;

use super::facts::PAGE_MARKS;

/// Where attributes that tell about a mount are listed. By name they can be read everywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Nowhere.
    Never,
    /// At the root of the repository.
    #[default]
    RootOnly,
    /// Everywhere.
    Always,
}

impl Visibility {
    /// Parses upstream's words.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "never" => Some(Self::Never),
            "rootonly" => Some(Self::RootOnly),
            "always" => Some(Self::Always),
            _ => None,
        }
    }

    /// Tells whether they are listed here.
    pub(super) fn lists(self, is_root: bool) -> bool {
        match self {
            Self::Never => false,
            Self::RootOnly => is_root,
            Self::Always => true,
        }
    }
}

/// Who sees which attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Where the made up ones are listed.
    pub visibility: Visibility,
    /// Those that are for some groups only.
    pub protected: BTreeSet<String>,
    /// These groups; and group 0, always.
    pub privileged: BTreeSet<u32>,
}

impl Exposure {
    /// Tells whether a process of that primary group may read an attribute; pages of a protected
    /// one are protected, too.
    pub(super) fn allows(&self, name: &[u8], group: u32) -> bool {
        if self.protected.is_empty() || group == 0 || self.privileged.contains(&group) {
            return true;
        }
        let is_protected =
            |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| self.protected.contains(name));
        let is_mark = |byte: &u8| PAGE_MARKS.contains(&char::from(*byte));
        let page_of = name.split(is_mark).next().unwrap_or(name);
        !is_protected(name) && !is_protected(page_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_protected_as_what_they_are_of() {
        let exposure = Exposure {
            protected: ["user.chunk_list".to_owned(), "user.a~b".to_owned()].into(),
            privileged: [7].into(),
            ..Exposure::default()
        };
        for name in ["user.chunk_list", "user.chunk_list~0", "user.chunk_list@?", "user.a~b"] {
            let allowed = [0, 7, 8].map(|group| exposure.allows(name.as_bytes(), group));
            assert_eq!(allowed, [true, true, false], "{name}");
        }
        for name in [&b"user.chunk_lis"[..], b"user.a", b"\xff"] {
            assert!(exposure.allows(name, 8));
        }
        assert!(Exposure::default().allows(b"user.chunk_list", 8));
    }
}
