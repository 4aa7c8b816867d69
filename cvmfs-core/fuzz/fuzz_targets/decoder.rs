//! The body of an object, in arbitrary pieces, against its decoding in one go.
//!
//! Input: one byte of switches, one of the piece length, two of the size bound, then the body.
#![no_main]

use cvmfs_core::decode::{BodyDecoder, DecodeError, SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[switches, piece_len, high, low], stored)) = data.split_first_chunk() else {
        return;
    };
    let compression = if switches & 1 == 0 { Compression::Zlib } else { Compression::None };
    let size = u64::from(u16::from_be_bytes([high, low]));
    let bound = if switches & 2 == 0 { SizeBound::AtMost(size) } else { SizeBound::Exactly(size) };
    let hash = if switches & 4 == 0 {
        ContentHash::of(HashAlgorithm::Sha1, stored)
    } else {
        ContentHash::of(HashAlgorithm::Shake128, b"another")
    };
    let id = ObjectId { hash, kind: ObjectKind::Data, compression };

    let mut plain = Vec::new();
    let mut decoder = BodyDecoder::new(id, bound);
    let mut result = Ok(());
    for piece in stored.chunks(usize::from(piece_len) + 1) {
        result = decoder.push(piece, |piece| {
            plain.extend_from_slice(piece);
            Ok::<_, DecodeError>(())
        });
        if result.is_err() {
            break;
        }
    }
    assert!(plain.len() as u64 <= bound.plain_cap());
    let in_pieces = result.and_then(|()| decoder.finish()).map(|proof| (proof.size(), plain));
    let at_once = decode_all(id, stored, bound).map(|(plain, proof)| (proof.size(), plain));
    match (in_pieces, at_once) {
        (Ok(pieces), Ok(whole)) => {
            assert_eq!(pieces, whole);
            assert_eq!(pieces.0, pieces.1.len() as u64);
            assert!(hash == ContentHash::of(HashAlgorithm::Sha1, stored));
        }
        (Err(_), Err(_)) => {}
        (pieces, whole) => panic!("pieces: {pieces:?}; whole: {whole:?}"),
    }
});
