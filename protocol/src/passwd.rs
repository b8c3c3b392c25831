//! Is this the password, and may it be one? The rules of passwords and argon2id hashes as PHC strings, the same wherever one is made.
//!
//! Plain: the salt is passed in, and where a password is read from is the business of command lines.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};
use std::ops::RangeInclusive;

/// Longest password, in bytes. Frames before the login are at most 4 KiB.
pub const MAX_PASSWORD: usize = 1024;
/// Bytes of a salt.
pub const SALT: usize = 16;
/// Bytes of a hash.
pub const OUTPUT: usize = Params::DEFAULT_OUTPUT_LEN;
/// Memory, passes and lanes of an accepted argon2id hash. With less memory passwords are guessed too quickly; more of
/// anything would let one login take the broker's memory, or a core for seconds.
const MEMORY_KIB: RangeInclusive<u32> = 8 * 1024..=1024 * 1024;
const PASSES: RangeInclusive<u32> = 1..=16;
const LANES: RangeInclusive<u32> = 1..=16;
/// Shortest output of an accepted hash, in bytes.
const MIN_OUTPUT: usize = 16;

/// What no password may be. None of them holds the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// Empty passwords are never accepted.
    #[error("the password is empty, which is never accepted; give one")]
    Empty,
    /// Over [`MAX_PASSWORD`].
    #[error("the password has more than {MAX_PASSWORD} bytes; use a shorter one")]
    TooLong,
    /// CONNECT could not carry it.
    #[error("the password holds a control character or is not UTF-8; leave that out")]
    Unprintable,
    /// The broker would check it as a token, and never as a password.
    #[error(
        "the password has the form of a resumption token (mt1.…), which is never checked as a password; use another"
    )]
    Token,
    /// No memory.
    #[error("cannot compute the hash: {0}")]
    Hash(String),
}

/// Whether a text may be a password.
pub fn check(password: &str) -> Result<(), BadPassword> {
    if password.is_empty() {
        return Err(BadPassword::Empty);
    }
    if password.len() > MAX_PASSWORD {
        return Err(BadPassword::TooLong);
    }
    if password.chars().any(char::is_control) {
        return Err(BadPassword::Unprintable);
    }
    if crate::token::is_token(password) {
        return Err(BadPassword::Token);
    }
    Ok(())
}

/// The PHC string of a password: argon2id, m = 19 MiB, t = 2, p = 1. The salt must be random, and new each time. Takes some
/// 20 ms of a core.
pub fn hash(password: &SecretString, salt: [u8; SALT]) -> Result<String, BadPassword> {
    check(password.expose_secret())?;
    let mut output = [0; OUTPUT];
    let made = argon2().hash_password_into(password.expose_secret().as_bytes(), &salt, &mut output);
    made.map_err(|error| BadPassword::Hash(error.to_string()))?;
    Ok(phc(&salt, &output))
}

/// Whether the password is the one of a PHC string, whose own parameters are used. False for an empty password and for
/// what is no PHC string. Costs what the parameters say: call it where that hurts nobody.
pub fn verify(phc: &str, password: &SecretString) -> bool {
    let Ok(hash) = PasswordHash::new(phc) else { return false };
    let verified = argon2().verify_password(password.expose_secret().as_bytes(), &hash).is_ok();
    verified && !password.expose_secret().is_empty()
}

/// The PHC string, with the parameters of [`hash`], of a salt and an output. Of a random output it is nobody's.
pub fn phc(salt: &[u8; SALT], output: &[u8; OUTPUT]) -> String {
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&Params::DEFAULT).unwrap_or_default(),
        salt: Salt::new(salt).ok(),
        hash: Output::new(output).ok(),
    };
    hash.to_string()
}

/// Whether a policy takes this as a hash: an argon2id PHC string with sane parameters. The error says what is wrong with it
/// and never quotes it: it could be a password in the clear.
pub fn check_hash(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the password is empty, which is never accepted".into());
    }
    if !text.starts_with('$') {
        return Err("the password is not a PHC string ($argon2id$…); if it is the password itself, change it".into());
    }
    let hash = PasswordHash::new(text).map_err(|_| "the password is not a well-formed PHC string")?;
    if hash.algorithm.as_str() != "argon2id" || hash.version != Some(Version::V0x13.into()) {
        return Err("the password's hash is not argon2id, version 19".into());
    }
    let params = Params::try_from(&hash).map_err(|_| "the parameters of the password's hash have no meaning")?;
    let ranges = [("m", params.m_cost(), MEMORY_KIB), ("t", params.t_cost(), PASSES), ("p", params.p_cost(), LANES)];
    for (name, value, range) in ranges {
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            return Err(format!("the password's hash has {name}={value}, accepted is {low} to {high}"));
        }
    }
    if hash.salt.is_none() || hash.hash.is_none_or(|output| output.len() < MIN_OUTPUT) {
        return Err("the password's hash lacks its salt or output, or the output is too short".into());
    }
    if !params.keyid().is_empty() || !params.data().is_empty() {
        return Err("the password's hash has a key id or data, which are not used here".into());
    }
    Ok(())
}

fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[test]
    fn a_hash_verifies_its_password_alone() {
        let phc = hash(&secret("correct horse"), [7; SALT]).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert_eq!(check_hash(&phc), Ok(()));
        assert!(verify(&phc, &secret("correct horse")));
        assert!(!verify(&phc, &secret("correct horsf")));
        assert!(!verify(&phc, &secret("")));
        assert_ne!(hash(&secret("correct horse"), [8; SALT]).unwrap(), phc, "another salt, another hash");
        for no_hash in ["", "correct horse", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ"] {
            assert!(!verify(no_hash, &secret("correct horse")));
        }
    }

    #[test]
    fn the_hash_is_the_one_that_everybody_computes() {
        // By the reference implementation: `printf password | argon2 AAAAAAAAAAAAAAAA -id -t 2 -k 19456 -p 1 -e`.
        let known = "$argon2id$v=19$m=19456,t=2,p=1$QUFBQUFBQUFBQUFBQUFBQQ$b6h2DyCtyl7rpFytYneJueB8G7vWXzPBNu1tfybZbWc";
        assert_eq!(hash(&secret("password"), *b"AAAAAAAAAAAAAAAA").unwrap(), known);
    }

    #[test]
    fn some_texts_are_no_passwords() {
        let token = format!("mt1.{}", "a".repeat(200));
        for (text, why) in [
            (String::new(), BadPassword::Empty),
            ("a".repeat(MAX_PASSWORD + 1), BadPassword::TooLong),
            ("a\0b".into(), BadPassword::Unprintable),
            ("a\nb".into(), BadPassword::Unprintable),
            (token, BadPassword::Token),
        ] {
            assert_eq!(check(&text), Err(why.clone()));
            assert_eq!(hash(&secret(&text), [0; SALT]), Err(why));
        }
        for text in ["a".repeat(MAX_PASSWORD), "mt1.hunter2".into(), "päss wörd".into()] {
            assert_eq!(check(&text), Ok(()));
        }
    }

    #[test]
    fn what_is_no_hash_is_not_quoted() {
        let good = phc(&[1; SALT], &[2; OUTPUT]);
        assert_eq!(check_hash(&good), Ok(()));
        for wrong in [
            "hunter2".to_owned(),
            "$hunter2".into(),
            good.replace("argon2id", "argon2i"),
            good.replace("m=19456", "m=64"),
            good.replace("t=2", "t=17"),
            good.rsplit_once('$').unwrap().0.into(),
        ] {
            let error = check_hash(&wrong).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains(&wrong), "{error}");
        }
        assert!(check_hash("").unwrap_err().contains("empty"));
    }
}
