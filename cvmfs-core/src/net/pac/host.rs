//! The PAC functions that look only at the text of a host name or URL.

/// The longest host name of the DNS, in bytes.
const MAX_NAME: usize = 255;

/// Whether this may be given to a resolver as a name.
///
/// Scripts build names from whatever they like; one with blanks or control characters has no
/// addresses, and finding that out must not depend on the resolver.
pub(super) fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_NAME
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && host.bytes().any(|b| b.is_ascii_alphanumeric())
}

/// `isPlainHostName`: no domain in it. The colon excludes IPv6 addresses, which have no dot.
pub(super) fn is_plain(host: &str) -> bool {
    !host.contains(['.', ':'])
}

/// `dnsDomainIs`: the host ends with the domain, which scripts write with its leading dot. Host
/// names do not distinguish upper and lower case, thus neither does this.
pub(super) fn domain_is(host: &str, domain: &str) -> bool {
    host.len()
        .checked_sub(domain.len())
        .and_then(|start| host.as_bytes().get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(domain.as_bytes()))
}

/// `localHostOrDomainIs`: the full name, or its first label alone.
pub(super) fn local_or_domain_is(host: &str, full: &str) -> bool {
    let label = full.split_once('.').map_or(full, |(label, _)| label);
    host.eq_ignore_ascii_case(full) || host.eq_ignore_ascii_case(label)
}

/// `dnsDomainLevels`: the number of dots.
pub(super) fn levels(host: &str) -> usize {
    host.bytes().filter(|b| *b == b'.').count()
}

/// `shExpMatch`: `*` stands for any text, `?` for any one character, everything else for itself.
///
/// Remembering only the last star suffices, since an earlier star can never help where a later one
/// failed; the work is thus bounded by the product of the lengths, where a search that tries every
/// star would be exponential.
pub(super) fn shell_match(text: &str, pattern: &str) -> bool {
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    // Where to resume: the pattern after the last star, and the text that star has not yet taken.
    let mut retry = None;
    loop {
        let (mut next_text, mut next_pattern) = (text.clone(), pattern.clone());
        match (next_text.next(), next_pattern.next()) {
            (_, Some('*')) => {
                retry = Some((next_pattern.clone(), text.clone()));
                pattern = next_pattern;
                continue;
            }
            (None, None) => return true,
            (Some(have), Some(want)) if want == '?' || want == have => {
                (text, pattern) = (next_text, next_pattern);
                continue;
            }
            _ => {}
        }
        let Some((after, rest)) = retry.as_mut() else {
            return false;
        };
        if rest.next().is_none() {
            return false;
        }
        (text, pattern) = (rest.clone(), after.clone());
    }
}
