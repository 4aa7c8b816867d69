//! Variables in symlink targets (spec/format.md section 17).

use std::collections::BTreeMap;

/// The variables that symlink targets may use.
///
/// An explicit list instead of the environment of the process, which a repository could read
/// through its links otherwise (facts/behaviours.md T15). The caller puts in `CVMFS_FQRN`,
/// `CVMFS_ARCH` and what the administrator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymlinkVariables {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    keeps_expressions: bool,
}

impl SymlinkVariables {
    /// Starts without any variable: all are unset.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows stored targets as they are, without replacing anything: for publishers, who would
    /// publish the replaced text otherwise (`CVMFS_SERVER_CACHE_MODE`).
    pub fn keep_expressions(&mut self) {
        self.keeps_expressions = true;
    }

    /// Sets a variable; the empty value counts as set.
    pub fn set(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.values.insert(name.into(), value.into());
    }

    /// Replaces `$(NAME)` and `$(NAME:-default)` in a stored target.
    ///
    /// The first `)` ends an expression and the first `:-` splits it; values are not expanded
    /// again; an expression without end is kept as it is.
    pub fn expand(&self, target: &[u8]) -> Vec<u8> {
        if self.keeps_expressions {
            return target.to_vec();
        }
        let mut shown = Vec::with_capacity(target.len());
        let mut rest = target;
        while let Some((before, expression, after)) = next_expression(rest) {
            shown.extend_from_slice(before);
            let (name, default) = match find(expression, b":-") {
                Some(split) => (&expression[..split], &expression[split + 2..]),
                None => (expression, &b""[..]),
            };
            shown.extend_from_slice(self.values.get(name).map_or(default, Vec::as_slice));
            rest = after;
        }
        shown.extend_from_slice(rest);
        shown
    }
}

fn next_expression(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let start = find(text, b"$(")?;
    let (before, inner) = (&text[..start], &text[start + 2..]);
    let end = find(inner, b")")?;
    Some((before, &inner[..end], &inner[end + 1..]))
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_see_what_is_stored() {
        let mut variables = SymlinkVariables::new();
        variables.set("FOO", "x");
        variables.keep_expressions();
        assert_eq!(variables.expand(b"a/$(FOO)/$(NONE:-d)"), b"a/$(FOO)/$(NONE:-d)");
    }

    /// facts/behaviours.md section 2.10.
    #[test]
    fn vectors() {
        let mut variables = SymlinkVariables::new();
        variables.set("FOO", "x");
        variables.set("B", "y");
        variables.set("EMPTY", "");
        variables.set("LOOP", "$(FOO)");
        for (stored, shown) in [
            ("", ""),
            ("plain/path", "plain/path"),
            ("a/$(FOO)/b", "a/x/b"),
            ("$(FOO)$(B)", "xy"),
            ("pre$(NONE)post", "prepost"),
            ("$(NONE:-/d/e)", "/d/e"),
            ("$(FOO:-/d/e)", "x"),
            ("$(EMPTY:-/d)", ""),
            ("$(NONE:-)", ""),
            ("$()", ""),
            ("$(:-z)", "z"),
            ("$(", "$("),
            ("$(A", "$(A"),
            ("a$(FOO", "a$(FOO"),
            ("$FOO", "$FOO"),
            ("${FOO}", "${FOO}"),
            ("x$", "x$"),
            ("$$(FOO)", "$x"),
            ("$(NONE:-$(FOO))", "$(FOO)"),
            ("$(FOO:z)", ""),
            ("$(FOO) $(NONE:-q)$", "x q$"),
            // Beyond the table: values are final, and only the first `:-` splits.
            ("$(LOOP)", "$(FOO)"),
            ("$(NONE:-a:-b)", "a:-b"),
            ("$(FOO)$(B", "x$(B"),
            ("$(AWS_SECRET_ACCESS_KEY)", ""),
        ] {
            assert_eq!(
                String::from_utf8(variables.expand(stored.as_bytes())).unwrap(),
                shown,
                "{stored}"
            );
        }
        assert_eq!(variables.expand(b"\xff$(FOO)\xfe"), b"\xffx\xfe");
        assert_eq!(SymlinkVariables::new().expand(b"$(HOME)$(PATH)"), b"");
    }
}
