//! What a compiled Python module imports as soon as it is imported itself.
//!
//! A `.pyc` is a header and the module's code, written by CPython's `marshal`. Imports are one
//! instruction, which names the module; level and items are the two constants loaded before it. Only the code of the
//! module is looked at: what functions import is mostly never needed. Versions that are not known
//! are left alone, since their instructions have other numbers.
//!
//! The bytes are content of the repository: they may be anything, so nothing in here trusts a
//! length, and what is not understood has no imports.

use std::rc::Rc;

/// Code in code in code.
const MAX_DEPTH: usize = 64;
/// Values of one module: one of a million lines of data has more, and no imports. Each takes up to 90 bytes of memory,
/// and one byte of the file.
const MAX_VALUES: usize = 1 << 18;
/// Imports of one module that are looked at.
const MAX_IMPORTS: usize = 1024;

/// `import NAME`, or `from NAME import ITEMS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Dots before the name: 0 is absolute, 1 the module's own package.
    pub level: usize,
    /// With dots inside; may be empty after some before it.
    pub name: Box<[u8]>,
    /// Names that may be modules, too.
    pub items: Vec<Box<[u8]>>,
}

/// How one range of versions writes code.
struct Dialect {
    /// Values of the number that a file begins with.
    magic: std::ops::RangeInclusive<u16>,
    header_len: usize,
    /// Numbers in front of a code.
    numbers: usize,
    /// Tables behind the line number.
    tables: usize,
    import_name: u8,
    load_const: u8,
    extended_arg: u8,
}

const fn dialect(
    magic: std::ops::RangeInclusive<u16>,
    header_len: usize,
    numbers: usize,
    tables: usize,
    [import_name, load_const, extended_arg]: [u8; 3],
) -> Dialect {
    Dialect { magic, header_len, numbers, tables, import_name, load_const, extended_arg }
}

/// CPython 3.6, 3.7, 3.8 to 3.10, 3.11 and 3.12, 3.13.
const DIALECTS: [Dialect; 5] = [
    dialect(3370..=3379, 12, 5, 1, [108, 100, 144]),
    dialect(3390..=3399, 16, 5, 1, [108, 100, 144]),
    dialect(3400..=3439, 16, 6, 1, [108, 100, 144]),
    dialect(3450..=3531, 16, 5, 2, [108, 100, 144]),
    dialect(3550..=3571, 16, 5, 2, [75, 83, 71]),
];

/// Returns the imports of a compiled module; `None` if it is none of a known version, or damaged.
pub fn imports(file: &[u8]) -> Option<Vec<Import>> {
    let (magic, rest) = file.split_first_chunk::<4>()?;
    let [a, b, b'\r', b'\n'] = *magic else { return None };
    let magic = u16::from_le_bytes([a, b]);
    let dialect = DIALECTS.iter().find(|dialect| dialect.magic.contains(&magic))?;
    let rest = rest.get(dialect.header_len - 4..)?;
    let mut reader = Reader { rest, seen: Vec::new(), dialect, depth: 0, values: 0 };
    // With or without the mark of what is referred to later.
    if reader.byte()? & !REFERRED != b'c' {
        return None;
    }
    reader.seen.push(Value::OTHER);
    Some(reader.code()?.imports(dialect))
}

/// Bit of a type that gives the value a number, for others to refer to.
const REFERRED: u8 = 0x80;

/// A value without others inside it, as far as that matters.
#[derive(Clone)]
enum Leaf<'a> {
    /// Text or bytes.
    Text(&'a [u8]),
    Number(i32),
    Other,
}

/// A value inside a tuple.
#[derive(Clone)]
enum Member<'a> {
    Leaf(Leaf<'a>),
    Tuple(Rc<[Leaf<'a>]>),
}

/// A value. Code has constants, of which some are tuples of names; nothing looks deeper, so nothing deeper is
/// kept: however long a chain of references is, what is kept of it has these three levels, and is dropped without
/// recursion.
#[derive(Clone)]
enum Value<'a> {
    Leaf(Leaf<'a>),
    Tuple {
        members: Rc<[Member<'a>]>,
        /// The same as a member of another tuple.
        leaves: Rc<[Leaf<'a>]>,
    },
}

impl<'a> Value<'a> {
    const OTHER: Self = Self::Leaf(Leaf::Other);

    fn tuple(members: Rc<[Member<'a>]>) -> Self {
        let leaves = members.iter().map(|member| match member {
            Member::Leaf(leaf) => leaf.clone(),
            Member::Tuple(_) => Leaf::Other,
        });
        Self::Tuple { leaves: leaves.collect(), members }
    }

    fn into_member(self) -> Member<'a> {
        match self {
            Self::Leaf(leaf) => Member::Leaf(leaf),
            Self::Tuple { leaves, .. } => Member::Tuple(leaves),
        }
    }
}

struct Code<'a> {
    instructions: &'a [u8],
    constants: Rc<[Member<'a>]>,
    names: Rc<[Member<'a>]>,
}

impl Code<'_> {
    fn imports(&self, dialect: &Dialect) -> Vec<Import> {
        let mut found = Vec::new();
        let mut loaded = [None, None];
        let mut high = 0;
        for &[operation, low] in self.instructions.as_chunks::<2>().0 {
            let argument = high << 8 | usize::from(low);
            if operation == dialect.extended_arg {
                // Three of them at most make sense.
                high = argument & 0xff_ffff;
                continue;
            }
            high = 0;
            if operation == dialect.load_const {
                loaded = [loaded[1], self.constants.get(argument)];
                continue;
            }
            if operation == dialect.import_name
                && let [Some(Member::Leaf(Leaf::Number(level))), Some(items)] = loaded
                && let Some(Member::Leaf(Leaf::Text(name))) = self.names.get(argument)
                && let Ok(level) = usize::try_from(*level)
                && found.len() < MAX_IMPORTS
            {
                let items: &[Leaf<'_>] = if let Member::Tuple(items) = items { items } else { &[] };
                let texts = items.iter().filter_map(|item| match item {
                    Leaf::Text(text) => Some(Box::from(*text)),
                    _ => None,
                });
                found.push(Import {
                    level,
                    name: (*name).into(),
                    items: texts.take(MAX_IMPORTS).collect(),
                });
            }
            loaded = [None, None];
        }
        found
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Values that may be referred to.
    seen: Vec<Value<'a>>,
    dialect: &'static Dialect,
    depth: usize,
    /// Values that were read.
    values: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<i32> {
        let (word, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(i32::from_le_bytes(*word))
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    /// Reads one value of any type.
    fn value(&mut self) -> Option<Value<'a>> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return None;
        }
        let kind = self.byte()?;
        // It gets its number before those inside it.
        let place = (kind & REFERRED != 0).then(|| {
            self.seen.push(Value::OTHER);
            self.seen.len() - 1
        });
        let value = match kind & !REFERRED {
            b'N' | b'T' | b'F' | b'.' | b'S' => Value::OTHER,
            b'i' => Value::Leaf(Leaf::Number(self.number()?)),
            b'g' => self.take(8).map(|_| Value::OTHER)?,
            b'y' => self.take(16).map(|_| Value::OTHER)?,
            b'l' => {
                let digits = usize::try_from(self.number()?.unsigned_abs()).ok()?;
                self.take(digits.checked_mul(2)?).map(|_| Value::OTHER)?
            }
            b's' | b't' | b'u' | b'a' | b'A' => {
                let len = self.len()?;
                Value::Leaf(Leaf::Text(self.take(len)?))
            }
            b'z' | b'Z' => {
                let len = usize::from(self.byte()?);
                Value::Leaf(Leaf::Text(self.take(len)?))
            }
            b')' => {
                let len = usize::from(self.byte()?);
                Value::tuple(self.values(len)?)
            }
            b'(' => {
                let len = self.len()?;
                Value::tuple(self.values(len)?)
            }
            b'[' | b'<' | b'>' => {
                let len = self.len()?;
                self.values(len).map(|_| Value::OTHER)?
            }
            b'c' => self.code().map(|_| Value::OTHER)?,
            b'r' => {
                let place = self.len()?;
                self.seen.get(place)?.clone()
            }
            _ => return None,
        };
        if let Some(place) = place {
            self.seen[place] = value.clone();
        }
        Some(value)
    }

    fn values(&mut self, count: usize) -> Option<Rc<[Member<'a>]>> {
        // Each takes a byte at least.
        if count > self.rest.len() || self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let values = (0..count).map(|_| Some(self.value()?.into_member())).collect();
        self.depth -= 1;
        values
    }

    fn code(&mut self) -> Option<Code<'a>> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        self.take(4 * self.dialect.numbers)?;
        let Value::Leaf(Leaf::Text(instructions)) = self.value()? else { return None };
        let Value::Tuple { members: constants, .. } = self.value()? else { return None };
        let Value::Tuple { members: names, .. } = self.value()? else { return None };
        // Variables, the name of the file, and its own.
        self.values(5)?;
        self.number()?;
        self.values(self.dialect.tables)?;
        self.depth -= 1;
        Some(Code { instructions, constants, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiled by each version from the same text:
    ///
    /// ```python
    /// import a.b
    /// from . import c, d
    /// from ..e import f as g
    /// from h import *
    /// import sys, zlib
    /// def late():
    ///     import never
    /// class K:
    ///     import inside
    /// try:
    ///     import a.b.k as q
    /// except ImportError:
    ///     pass
    /// ```
    const SAMPLES: [(&str, &[u8]); 7] = [
        ("3.6", include_bytes!("samples/imp-36.pyc")),
        ("3.7", include_bytes!("samples/imp-37.pyc")),
        ("3.8", include_bytes!("samples/imp-38.pyc")),
        ("3.10", include_bytes!("samples/imp-310.pyc")),
        ("3.11", include_bytes!("samples/imp-311.pyc")),
        ("3.12", include_bytes!("samples/imp-312.pyc")),
        ("3.13", include_bytes!("samples/imp-313.pyc")),
    ];

    #[test]
    fn the_imports_of_a_module_are_found_in_each_version() {
        let expected: &[(usize, &str, &[&str])] = &[
            (0, "a.b", &[]),
            (1, "", &["c", "d"]),
            (2, "e", &["f"]),
            (0, "h", &["*"]),
            (0, "sys", &[]),
            (0, "zlib", &[]),
            (0, "a.b.k", &[]),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(level, name, items)| Import {
                level: *level,
                name: name.as_bytes().into(),
                items: items.iter().map(|item| item.as_bytes().into()).collect(),
            })
            .collect();
        for (version, sample) in SAMPLES {
            assert_eq!(imports(sample).as_ref(), Some(&expected), "{version}");
        }
    }

    /// Whatever is damaged is not understood, or understood as something else; it ends.
    #[test]
    fn damaged_modules_do_no_harm() {
        for (_, sample) in SAMPLES {
            for len in 0..sample.len() {
                assert_eq!(imports(&sample[..len]), None, "cut to {len}");
            }
            for at in 0..sample.len() {
                for value in [0, 0x7f, 0x80, 0xff, b'(', b'r', b'c', b'>'] {
                    let mut damaged = sample.to_vec();
                    damaged[at] = value;
                    let _ = imports(&damaged);
                }
            }
        }
        let deep = |byte: u8| {
            [&SAMPLES[4].1[..16], &[0xe3][..], &[byte; 20][..], &vec![b')'; 1 << 20]].concat()
        };
        assert_eq!(imports(&deep(0)), None);
        assert_eq!(imports(b"import a\n"), None);
    }

    /// Each tuple holds a reference to the one before it: the text is flat, and what it means is 65,536 deep.
    #[test]
    fn m1_a_chain_of_references_is_dropped_in_a_small_stack() {
        const LINKS: u32 = 1 << 16;
        let mut file = [&SAMPLES[4].1[..16], &[0xe3][..], &[0; 20][..], &b"s\0\0\0\0"[..]].concat();
        file.push(b'(');
        file.extend((LINKS + 1).to_le_bytes());
        // The code itself is number 0, so the first tuple is number 1.
        file.extend([b')' | REFERRED, 0]);
        for number in 1..=LINKS {
            file.extend([b')' | REFERRED, 1, b'r']);
            file.extend(number.to_le_bytes());
        }
        let names = [&b")\0"[..], b"NNNNN", &[0; 4], b"NN"].concat();
        file.extend(names);
        let run = move || assert_eq!(imports(&file), Some(Vec::new()));
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
        small.join().unwrap();
    }

    #[test]
    fn m1_nesting_is_read_in_a_small_stack() {
        let begin = [&SAMPLES[4].1[..16], &[0xe3][..], &[0; 20][..]].concat();
        let run = move || {
            for kind in [&b")\x01"[..], b"(\x01\0\0\0", b"[\x01\0\0\0", b"\xe3"] {
                let mut file = begin.clone();
                for _ in 0..1 << 16 {
                    file.extend_from_slice(kind);
                    if kind == b"\xe3" {
                        file.extend([0; 20]);
                    }
                }
                assert_eq!(imports(&file), None);
            }
        };
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
        small.join().unwrap();
    }
}
