use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::ZlibEncoder;

use super::*;
use crate::hash::HashAlgorithm;
use crate::object::ObjectKind;

fn zlib(plain: &[u8], level: Level) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), level);
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Names the object whose stored bytes these are.
fn id_of(stored: &[u8], compression: Compression) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Shake128, stored);
    ObjectId { hash, kind: ObjectKind::Data, compression }
}

/// Bytes without pattern, so that they do not shrink.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| step()).collect()
}

fn decode_in_pieces(
    id: ObjectId,
    stored: &[u8],
    bound: SizeBound,
    len: usize,
) -> Result<Vec<u8>, DecodeError> {
    let mut plain = Vec::new();
    let mut decoder = BodyDecoder::new(id, bound);
    for piece in stored.chunks(len) {
        decoder.push(piece, |piece| {
            assert!(piece.len() <= PIECE_LEN || id.compression == Compression::None);
            plain.extend_from_slice(piece);
            Ok::<_, DecodeError>(())
        })?;
    }
    let proof = decoder.finish()?;
    assert_eq!((proof.id(), proof.size()), (&id, plain.len() as u64));
    Ok(plain)
}

#[test]
fn round_trips_in_all_pieces() {
    let sizes = [0, 1, 100, PIECE_LEN - 1, PIECE_LEN, PIECE_LEN + 1, 3 * PIECE_LEN];
    let bodies = sizes.iter().flat_map(|&size| [vec![0; size], noise(size)]);
    for plain in bodies {
        let stored_forms = [
            (plain.clone(), Compression::None),
            (zlib(&plain, Level::default()), Compression::Zlib),
            (zlib(&plain, Level::none()), Compression::Zlib),
        ];
        for (stored, compression) in stored_forms {
            let id = id_of(&stored, compression);
            let exact = SizeBound::Exactly(plain.len() as u64);
            for bound in [exact, SizeBound::AtMost(u64::MAX)] {
                assert!(stored.len() as u64 <= bound.stored_cap(compression));
                for len in [1, 7, 16 * 1024, usize::MAX] {
                    if len == 1 && stored.len() > 4096 {
                        continue;
                    }
                    assert_eq!(decode_in_pieces(id, &stored, bound, len).unwrap(), plain);
                }
            }
        }
    }
}

#[test]
fn the_empty_file() {
    let stored = hex::decode("789c030000000001").unwrap();
    assert_eq!(zlib(b"", Level::default()), stored);
    let hash = "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78".parse().unwrap();
    let id = ObjectId::zlib(hash, ObjectKind::Data);
    let (plain, proof) = decode_all(id, &stored, SizeBound::Exactly(0)).unwrap();
    assert_eq!((plain.len(), proof.size()), (0, 0));
    // No bytes at all are no zlib stream.
    let id = id_of(b"", Compression::Zlib);
    assert!(matches!(decode_all(id, b"", SizeBound::Exactly(0)), Err(DecodeError::Zlib { .. })));
}

#[test]
fn other_bytes_are_refused() {
    let plain = noise(1000);
    for (stored, compression) in
        [(zlib(&plain, Level::default()), Compression::Zlib), (plain.clone(), Compression::None)]
    {
        let (id, bound) = (id_of(&stored, compression), SizeBound::Exactly(1000));
        for position in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[position] ^= 0x10;
            assert!(decode_all(id, &damaged, bound).is_err(), "byte {position}");
            assert!(decode_all(id, &stored[..position], bound).is_err(), "first {position} bytes");
        }
        let longer = [&stored[..], b"x"].concat();
        assert!(decode_all(id, &longer, bound).is_err());
        // The right hash of the wrong object.
        let other = id_of(b"other", compression);
        let error = decode_all(other, &stored, bound).unwrap_err();
        assert!(matches!(error, DecodeError::HashMismatch { actual, .. } if actual == id.hash));
    }
}

/// All of these have the right hash: what is wrong with them is inside.
#[test]
fn broken_streams_are_refused() {
    let stream = zlib(&noise(1000), Level::default());
    let gzip_header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03".to_vec();
    let mut bad_checksum = stream.clone();
    *bad_checksum.last_mut().unwrap() ^= 1;
    for (stored, reason) in [
        (stream[..stream.len() - 1].to_vec(), Some("cut short")),
        (stream[..2].to_vec(), Some("cut short")),
        ([&stream[..], b"x"].concat(), Some("bytes after its end")),
        ([&stream[..], &stream[..]].concat(), Some("bytes after its end")),
        (bad_checksum, None),
        (gzip_header, None),
        // A preset dictionary, which nobody has.
        (vec![0x78, 0xbb, 1, 2, 3, 4, 0x03, 0x00], None),
        (noise(1000), None),
        (b"plain text".to_vec(), None),
    ] {
        let id = id_of(&stored, Compression::Zlib);
        for len in [1, 3, usize::MAX] {
            match decode_in_pieces(id, &stored, SizeBound::AtMost(1 << 20), len).unwrap_err() {
                DecodeError::Zlib { reason: actual, .. } => {
                    assert!(reason.is_none_or(|reason| reason == actual), "{actual}");
                }
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn sizes_are_bounded() {
    let plain = noise(1000);
    for (stored, compression) in
        [(zlib(&plain, Level::default()), Compression::Zlib), (plain.clone(), Compression::None)]
    {
        let id = id_of(&stored, compression);
        for (bound, message) in [
            (SizeBound::Exactly(1000), None),
            (SizeBound::AtMost(1000), None),
            (SizeBound::Exactly(999), Some(format!("object {id} is larger than 999 bytes"))),
            (SizeBound::AtMost(999), Some(format!("object {id} is larger than 999 bytes"))),
            (SizeBound::Exactly(0), Some(format!("object {id} is larger than 0 bytes"))),
            (SizeBound::Exactly(1001), Some(format!("object {id} has 1000 bytes, 1001 expected"))),
        ] {
            let result = decode_all(id, &stored, bound).map_err(|error| error.to_string());
            assert_eq!(result.err(), message, "{bound:?}");
        }
    }
}

#[test]
fn a_bomb_stops_at_the_bound() {
    let stored = zlib(&vec![0; 64 << 20], Level::best());
    let id = id_of(&stored, Compression::Zlib);
    let mut seen = 0;
    let mut decoder = BodyDecoder::new(id, SizeBound::Exactly(1024 * 1024));
    let result = decoder.push(&stored, |piece| {
        seen += piece.len();
        Ok::<_, DecodeError>(())
    });
    assert!(matches!(result, Err(DecodeError::TooLarge { limit: 1_048_576, .. })));
    assert_eq!(seen, 1024 * 1024);
}

#[test]
fn failures_of_the_sink_pass_through() {
    #[derive(Debug, PartialEq)]
    enum Failure {
        DiskFull,
        Decode(String),
    }
    impl From<DecodeError> for Failure {
        fn from(error: DecodeError) -> Self {
            Self::Decode(error.to_string())
        }
    }
    for compression in [Compression::None, Compression::Zlib] {
        let stored = match compression {
            Compression::None => noise(10),
            Compression::Zlib => zlib(&noise(10), Level::default()),
        };
        let mut decoder = BodyDecoder::new(id_of(&stored, compression), SizeBound::AtMost(10));
        assert_eq!(decoder.push(&stored, |_| Err(Failure::DiskFull)), Err(Failure::DiskFull));
    }
}

#[test]
fn a_proof_is_for_one_object_and_size() {
    let id = id_of(b"abc", Compression::None);
    let (_, proof) = decode_all(id, b"abc", SizeBound::AtMost(3)).unwrap();
    assert!(proof.must_match(&id, 3).is_ok());
    assert!(matches!(
        proof.must_match(&id, 2),
        Err(CacheError::WrongSize { written: 2, checked: 3, .. })
    ));
    let zlib = ObjectId { compression: Compression::Zlib, ..id };
    assert!(matches!(proof.must_match(&zlib, 3), Err(CacheError::WrongBody { .. })));
}

/// Damage of every byte, ends everywhere, wrong sizes: each with the hash of just these bytes, as a
/// publisher could make them.
#[test]
fn a_body_in_one_go_is_judged_like_a_stream() {
    let in_one_go = |id, pieces: &[Bytes], bound| {
        let mut plain = Vec::new();
        let proof = decode_whole(id, bound, pieces, |piece| {
            plain.extend_from_slice(piece);
            Ok::<_, DecodeError>(())
        })?;
        assert_eq!((proof.id(), proof.size()), (&id, plain.len() as u64));
        Ok::<_, DecodeError>(plain)
    };
    let same = |expected: &[u8], stored: &[u8], bound, what: &str| {
        let id = id_of(stored, Compression::Zlib);
        let stream = decode_all(id, stored, bound).map(|(plain, _)| plain);
        let (start, end) = stored.split_at(stored.len() / 3);
        let pieces = [start, end].map(Bytes::copy_from_slice);
        match (stream, in_one_go(id, &pieces, bound)) {
            (Ok(stream), Ok(plain)) => assert!(plain == stream, "{what}"),
            // Codes that are not complete may be read: not to other content.
            (Err(DecodeError::Zlib { .. }), Ok(plain)) => assert!(plain == expected, "{what}"),
            // Damaged streams may fail at another place.
            (Err(DecodeError::Zlib { .. }), Err(_)) | (Err(_), Err(DecodeError::Zlib { .. })) => {}
            (Err(stream), Err(error)) => assert_eq!(
                std::mem::discriminant(&stream),
                std::mem::discriminant(&error),
                "{what}: {stream}, {error}"
            ),
            (stream, other) => panic!("{what}: {stream:?}, {other:?}"),
        }
        if matches!(bound, SizeBound::AtMost(_)) {
            return;
        }
        let mut damaged = pieces;
        damaged[1] = [&damaged[1][..], b"x"].concat().into();
        let refused = in_one_go(id, &damaged, bound);
        assert!(matches!(refused, Err(DecodeError::HashMismatch { .. })), "{what}");
    };
    for plain in [Vec::new(), vec![b'x'; 300], noise(300), noise(PIECE_LEN + 1)] {
        let stored = zlib(&plain, Level::default());
        let len = plain.len() as u64;
        for bound in [SizeBound::Exactly(len), SizeBound::Exactly(len + 1), SizeBound::AtMost(len)]
        {
            same(&plain, &stored, bound, "whole");
        }
        if let Some(less) = len.checked_sub(1) {
            same(&plain, &stored, SizeBound::Exactly(less), "larger than stated");
        }
        same(
            &plain,
            &[&stored[..], b"x"].concat(),
            SizeBound::Exactly(len),
            "bytes behind the end",
        );
        if len > 300 {
            continue;
        }
        for position in 0..stored.len() {
            same(
                &plain,
                &stored[..position],
                SizeBound::Exactly(len),
                &format!("first {position}"),
            );
            for bit in 0..8 {
                let mut damaged = stored.clone();
                damaged[position] ^= 1 << bit;
                same(
                    &plain,
                    &damaged,
                    SizeBound::Exactly(len),
                    &format!("bit {bit} of {position}"),
                );
            }
        }
    }
}
