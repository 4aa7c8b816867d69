//! Profiles as text: stored in the cache, exported and imported.
//!
//! A first line with version and repository; for each segment a line `s MILLISECONDS`, its objects
//! (`o ID SIZE COUNT`, the trigger first), and its successors (`n ID COUNT`). An id is written as
//! in `cache ls`: hash, letter of its kind, `.none` if it is not compressed.

use std::fmt::Write as _;

use cvmfs_core::hash::ContentHash;
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};

use super::{
    Item, Known, MAX_COUNT, MAX_NEXT, MAX_OBJECT_SIZE, MAX_OBJECTS, MAX_SEGMENT, MAX_SEGMENTS,
    Profile, Segment,
};

/// Longest text that is read.
pub const MAX_LEN: usize = 2 << 20;
const TITLE: &str = "cvmfs-fuse profile 1";

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// It is of another program, or a later version.
    #[error("no access profile that this version knows")]
    Title,
    /// It is of another repository.
    #[error("the profile is of {0}")]
    Repository(String),
    /// Longer than any that is written.
    #[error("longer than {MAX_LEN} bytes")]
    TooLong,
    /// No UTF-8, or a line that says nothing.
    #[error("line {0} is not understood")]
    Line(usize),
}

impl Profile {
    /// Writes it down.
    pub fn to_text(&self, fqrn: &str) -> String {
        let mut text = format!("{TITLE} {fqrn}\n");
        for (_, segment) in self.segments() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "s {}", segment.used);
            for Known { item, count } in &segment.objects {
                let _ = writeln!(text, "o {} {} {count}", name_of(&item.id), item.size);
            }
            for (next, count) in &segment.next {
                let _ = writeln!(text, "n {} {count}", name_of(next));
            }
        }
        text
    }

    /// Reads what [`Profile::to_text`] wrote, or anybody else.
    pub fn parse(bytes: &[u8], fqrn: &str) -> Result<Self, TextError> {
        if bytes.len() > MAX_LEN {
            return Err(TextError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes.iter().take(error.valid_up_to());
            TextError::Line(1 + before.filter(|byte| **byte == b'\n').count())
        })?;
        let mut lines = text.lines().enumerate();
        let title = lines.next().and_then(|(_, line)| line.strip_prefix(TITLE));
        match title.and_then(|rest| rest.strip_prefix(' ')) {
            Some(own) if own == fqrn => {}
            Some(other) => return Err(TextError::Repository(other.chars().take(255).collect())),
            None => return Err(TextError::Title),
        }
        let (mut profile, mut segment) = (Self::default(), None::<Segment>);
        let (mut objects, mut segments) = (0, 0);
        for (number, line) in lines {
            let wrong = || TextError::Line(number + 1);
            let words: Vec<_> = line.split(' ').take(5).collect();
            match (words.as_slice(), segment.as_mut()) {
                (["s", used], _) => {
                    segments += 1;
                    if segments > MAX_SEGMENTS {
                        return Err(wrong());
                    }
                    let used = used.parse().map_err(|_| wrong())?;
                    let new = Segment { used, ..Segment::default() };
                    segment.replace(new).into_iter().for_each(|done| profile.join_segment(done));
                }
                (["o", id, size, count], Some(segment)) => {
                    objects += 1;
                    let id = parse_name(id).ok_or_else(wrong)?;
                    let size = size.parse().map_err(|_| wrong())?;
                    let is_full = segment.objects.len() >= MAX_SEGMENT || objects > MAX_OBJECTS;
                    if is_full || size > MAX_OBJECT_SIZE {
                        return Err(wrong());
                    }
                    let count = parse_count(count).ok_or_else(wrong)?;
                    segment.objects.push(Known { item: Item { id, size }, count });
                }
                (["n", id, count], Some(segment)) if segment.next.len() < MAX_NEXT => {
                    let id = parse_name(id).ok_or_else(wrong)?;
                    segment.next.push((id, parse_count(count).ok_or_else(wrong)?));
                }
                _ => return Err(wrong()),
            }
        }
        segment.into_iter().for_each(|done| profile.join_segment(done));
        Ok(profile)
    }
}

fn parse_count(text: &str) -> Option<u8> {
    text.parse().ok().filter(|count| (1..=MAX_COUNT).contains(count))
}

/// The name of an object in a line.
pub fn name_of(id: &ObjectId) -> String {
    match id.compression {
        Compression::Zlib => id.to_string(),
        Compression::None => format!("{id}.none"),
    }
}

/// Only content of files can be named: nothing else is fetched by a guess.
fn parse_name(text: &str) -> Option<ObjectId> {
    let (text, compression) = match text.strip_suffix(".none") {
        Some(text) => (text, Compression::None),
        None => (text, Compression::Zlib),
    };
    let (text, kind) = match text.strip_suffix('P') {
        Some(text) => (text, ObjectKind::Chunk),
        None => (text, ObjectKind::Data),
    };
    let hash: ContentHash = text.parse().ok()?;
    Some(ObjectId { hash, kind, compression })
}

#[cfg(test)]
mod tests {
    use super::super::tests::lesson;
    use super::*;

    const FQRN: &str = "profile.test.repo";

    #[test]
    fn what_is_written_is_read() {
        let mut profile = Profile::default();
        profile.learn(&lesson(7, 0..200));
        profile.learn(&lesson(8, (0..64).chain(900..1000)));
        let text = profile.to_text(FQRN);
        assert_eq!(Profile::parse(text.as_bytes(), FQRN).unwrap(), profile);
        for id in [
            "0123456789abcdef0123456789abcdef01234567",
            "0123456789abcdef0123456789abcdef01234567P",
            "0123456789abcdef0123456789abcdef01234567-rmd160P.none",
            "0123456789abcdef0123456789abcdef01234567-shake128.none",
        ] {
            assert_eq!(name_of(&parse_name(id).unwrap()), id);
        }
        let other = Profile::parse(text.as_bytes(), "other.repo").unwrap_err();
        assert_eq!(other.to_string(), format!("the profile is of {FQRN}"));
    }

    #[test]
    fn the_largest_one_can_be_read_back() {
        let mut profile = Profile::default();
        for at in 0..2000 {
            let start = usize::try_from(at).unwrap() * 1000;
            profile.learn(&lesson(1_900_000_000_000 + at, start..start + 23));
        }
        let text = profile.to_text(FQRN);
        assert_eq!(Profile::parse(text.as_bytes(), FQRN).unwrap(), profile);
        // The longest lines there can be.
        const { assert!(MAX_OBJECTS * 70 + MAX_SEGMENTS * (16 + MAX_NEXT * 61) < MAX_LEN) };
    }

    #[test]
    fn hostile_texts_are_refused() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let title = format!("{TITLE} {FQRN}\n");
        assert!(Profile::parse(title.as_bytes(), FQRN).unwrap().is_empty());
        for (body, line) in [
            ("x\n".to_owned(), 2),
            (format!("o {id} 1 1\n"), 2),
            ("s -1\n".to_owned(), 2),
            (format!("s 1\no {id} 1 0\n"), 3),
            (format!("s 1\no {id} 1 16\n"), 3),
            (format!("s 1\no {id} 99999999999999999999 1\n"), 3),
            (format!("s 1\no {id} {} 1\n", MAX_OBJECT_SIZE + 1), 3),
            (format!("s 1\no {id}C 1 1\n"), 3),
            (format!("s 1\no {id} 1 1 1\n"), 3),
            ("s 1\no é 1 1\n".to_owned(), 3),
            (format!("s 1\no {id} 1 1\n{}", format!("n {id} 1\n").repeat(5)), 8),
            (format!("s 1\n{}", format!("o {id} 1 1\n").repeat(65)), 67),
            ("s 1\n".repeat(1025), 1026),
        ] {
            let error = Profile::parse(format!("{title}{body}").as_bytes(), FQRN).unwrap_err();
            assert!(matches!(error, TextError::Line(at) if at == line), "{body}: {error}");
        }
        let binary = [title.as_bytes(), b"s 1\n\xff\n"].concat();
        assert!(matches!(Profile::parse(&binary, FQRN), Err(TextError::Line(3))));
        for other in [&b""[..], b"\0", b"cvmfs-fuse profile 2 profile.test.repo\n"] {
            assert!(matches!(Profile::parse(other, FQRN), Err(TextError::Title)));
        }
        let long = vec![b's'; MAX_LEN + 1];
        assert!(matches!(Profile::parse(&long, FQRN), Err(TextError::TooLong)));
        // Says the same object many times: joined, not counted up.
        let twice = format!("{title}s 1\no {id} 1 1\ns 2\no {id} 1 3\n");
        assert_eq!(Profile::parse(twice.as_bytes(), FQRN).unwrap().objects(), 1);
    }
}
