//! Patterns of `case`: `*`, `?` and `[...]`, compared in a bounded number of steps.

/// One sign of a pattern.
#[derive(Debug)]
pub(super) enum Sign {
    Is(char),
    One,
    Any,
    Of { set: Vec<char>, negated: bool },
}

/// Appends the signs of a text; quoted characters stand for themselves.
pub(super) fn push_signs(signs: &mut Vec<Sign>, text: &str, quoted: bool) {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        signs.push(match c {
            // Stars side by side are one.
            '*' if !quoted && matches!(signs.last(), Some(Sign::Any)) => continue,
            '*' if !quoted => Sign::Any,
            '?' if !quoted => Sign::One,
            '[' if !quoted => {
                let negated = chars.next_if(|&c| c == '!').is_some();
                let mut set = Vec::new();
                for c in chars.by_ref() {
                    if c == ']' && !set.is_empty() {
                        break;
                    }
                    set.push(c);
                }
                Sign::Of { set, negated }
            }
            c => Sign::Is(c),
        });
    }
}

/// Compares a text with a pattern; counts steps down in `left`, and returns `None` when none is left: a pattern
/// with stars takes as many as the product of both lengths.
pub(super) fn matches(pattern: &[Sign], text: &[char], left: &mut u64) -> Option<bool> {
    // The last star, and how far the text was when it was met.
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(&c) = text.get(t) {
        let (fits, steps) = match pattern.get(p) {
            Some(Sign::Any) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(Sign::One) => (true, 1),
            Some(Sign::Is(wanted)) => (*wanted == c, 1),
            Some(Sign::Of { set, negated }) => (is_in(set, c) != *negated, 1 + set.len() as u64),
            None => (false, 1),
        };
        *left = left.checked_sub(steps)?;
        if fits {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return Some(false);
        }
    }
    Some(pattern.get(p..).unwrap_or_default().iter().all(|sign| matches!(sign, Sign::Any)))
}

fn is_in(set: &[char], c: char) -> bool {
    let mut rest = set;
    loop {
        match *rest {
            [from, '-', to, ref more @ ..] => {
                if (from..=to).contains(&c) {
                    return true;
                }
                rest = more;
            }
            [one, ref more @ ..] => {
                if one == c {
                    return true;
                }
                rest = more;
            }
            [] => return false,
        }
    }
}
