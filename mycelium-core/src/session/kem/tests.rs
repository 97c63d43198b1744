use serde_json::Value;

use super::*;

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    let digits = value.as_str().unwrap().as_bytes().chunks_exact(2);
    let bytes: Vec<u8> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

#[test]
fn the_vectors_of_the_script_match() {
    let text = include_str!("../../../tests/vectors/session_v2.json");
    let all: Value = serde_json::from_str(text).unwrap();
    for vector in all["kem"].as_array().unwrap() {
        let (key, public) = DecapsulationKey::from_seed(Zeroizing::new(bytes(&vector["seed"])));
        let hash: [u8; 32] = blake3::hash(&public).into();
        assert_eq!(hash, bytes(&vector["encapsulation_key"]));
        let public = EncapsulationKey::parse(&public).unwrap();
        let (mut ciphertext, secret) = encapsulate(&public, &bytes(&vector["randomness"]));
        assert_eq!(ciphertext, bytes(&vector["ciphertext"]));
        assert_eq!(*secret, bytes(&vector["secret"]));
        assert_eq!(key.decapsulate(&ciphertext), secret);
        ciphertext[0] ^= 1;
        assert_eq!(
            *key.decapsulate(&ciphertext),
            bytes(&vector["secret_of_changed"])
        );
    }
}

#[test]
fn only_reduced_coefficients_are_a_key() {
    let (_, public) = DecapsulationKey::from_seed(Zeroizing::new([1; 64]));
    assert!(EncapsulationKey::parse(&public).is_ok());
    // Twelve bits each: the first and the second coefficient, and the last.
    for at in [(0, 0x01, 0x0d), (1, 0x10, 0xd0), (1150, 0x10, 0xd0)] {
        let (low, min, high) = at;
        let mut changed = public;
        match low % 3 {
            // 3329 = 0xd01 as the first of a pair.
            0 => (changed[low], changed[low + 1]) = (min, changed[low + 1] & 0xf0 | high),
            // As the second.
            _ => (changed[low], changed[low + 1]) = (changed[low] & 0x0f | min, high),
        }
        assert_eq!(
            EncapsulationKey::parse(&changed).err(),
            Some(InvalidKey),
            "{at:?}"
        );
        match low % 3 {
            0 => changed[low] -= 1,
            _ => changed[low] -= 0x10,
        }
        assert!(EncapsulationKey::parse(&changed).is_ok(), "{at:?}");
    }
    // What follows the coefficients is a seed: anything.
    let mut changed = public;
    changed[1152..].fill(0xff);
    assert!(EncapsulationKey::parse(&changed).is_ok());
}
