//! The blob of extended attributes of a catalog row (spec/format.md section 16).
//!
//! ```text
//! u8 version (1), u8 count, then for each: u8 key length, u8 value length, key, value
//! ```

/// The only version there is.
const VERSION: u8 = 1;

/// Why a blob is no list of attributes. Readers show an empty list then, as upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// It ends before its own counts say so.
    #[error("attribute blob cut short")]
    Cut,
    /// Not version 1.
    #[error("attribute blob of version {0}")]
    Version(u8),
    /// An attribute without name, or a NUL byte in one.
    #[error("bad attribute name")]
    Name,
    /// More bytes than the kernel would show.
    #[error("attribute blob of {0} bytes")]
    Long(usize),
}

/// The extended attributes of one entry; the default has none, as for a NULL column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs(Vec<Attribute>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Xattrs {
    /// Parses a blob; bytes after the last attribute are ignored.
    ///
    /// Of attributes with the same name the last value counts.
    pub fn parse(blob: &[u8]) -> Result<Self, XattrError> {
        let (&version, rest) = blob.split_first().ok_or(XattrError::Cut)?;
        if version != VERSION {
            return Err(XattrError::Version(version));
        }
        let (&count, mut rest) = rest.split_first().ok_or(XattrError::Cut)?;
        let mut attributes = Self::default();
        for _ in 0..count {
            let (&[name_len, value_len], tail) = rest.split_first_chunk().ok_or(XattrError::Cut)?;
            let (name, tail) =
                tail.split_at_checked(usize::from(name_len)).ok_or(XattrError::Cut)?;
            let (value, tail) =
                tail.split_at_checked(usize::from(value_len)).ok_or(XattrError::Cut)?;
            if name.is_empty() || name.contains(&0) {
                return Err(XattrError::Name);
            }
            match attributes.0.iter_mut().find(|known| *known.name == *name) {
                Some(known) => known.value = value.into(),
                None => attributes.0.push(Attribute { name: name.into(), value: value.into() }),
            }
            rest = tail;
        }
        Ok(attributes)
    }

    /// Returns the value of an attribute, given its full name such as `user.foo`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Returns names and values in stored order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|attribute| (&*attribute.name, &*attribute.value))
    }

    /// Tells whether there are no attributes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// facts/behaviours.md section 2.9.
    const THREE: &str =
        "01030900656d7074795f6b657904066b65796176616c75656104066b65796276616c756562";

    fn pairs(attributes: &Xattrs) -> Vec<(&[u8], &[u8])> {
        attributes.iter().collect()
    }

    #[test]
    fn vectors() {
        let blob = hex::decode(THREE).unwrap();
        assert_eq!(blob.len(), 37);
        let three = Xattrs::parse(&blob).unwrap();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"empty_key", b""), (b"keya", b"valuea"), (b"keyb", b"valueb")];
        assert_eq!(pairs(&three), expected);
        assert_eq!(three.get(b"keyb"), Some(&b"valueb"[..]));
        assert_eq!(three.get(b"empty_key"), Some(&b""[..]));
        assert_eq!(three.get(b"key"), None);

        let foo = Xattrs::parse(&hex::decode("01010803757365722e666f6f626172").unwrap()).unwrap();
        assert_eq!(pairs(&foo), [(&b"user.foo"[..], &b"bar"[..])]);
        // spec/format.md section 26, with bytes after the end.
        let a = Xattrs::parse(b"\x01\x01\x06\x01user.abtail").unwrap();
        assert_eq!(pairs(&a), [(&b"user.a"[..], &b"b"[..])]);
        assert!(Xattrs::default().is_empty());
        assert!(Xattrs::parse(&[1, 0]).unwrap().is_empty());
    }

    #[test]
    fn longest_names_and_values() {
        let mut blob = vec![1, 255];
        for n in 0..255u8 {
            blob.extend([255, 255]);
            blob.extend([b'n'; 254]);
            blob.push(n.max(1));
            blob.extend([n; 255]);
        }
        let attributes = Xattrs::parse(&blob).unwrap();
        // Two of the names are equal: 0 was not possible as a byte of a name.
        assert_eq!(attributes.iter().count(), 254);
        assert_eq!(attributes.iter().next().unwrap().1, [1; 255]);
    }

    #[test]
    fn corrupt_blobs() {
        let blob = hex::decode(THREE).unwrap();
        for len in 0..blob.len() {
            assert_eq!(Xattrs::parse(&blob[..len]), Err(XattrError::Cut), "{len}");
        }
        for (blob, error) in [
            (&b"\xff\x00"[..], XattrError::Version(255)),
            (b"\x00\x00", XattrError::Version(0)),
            (b"\x02\x00", XattrError::Version(2)),
            (b"\x01\x01\x00\x00", XattrError::Name),
            (b"\x01\x01\x00\x01v", XattrError::Name),
            (b"\x01\x01\x03\x00a\x00b", XattrError::Name),
            (b"\x01\x02\x01\x01ab", XattrError::Cut),
        ] {
            assert_eq!(Xattrs::parse(blob), Err(error), "{blob:?}");
        }
    }
}
