//! The chain of hashes, by which `verify` finds the first record that was changed, inserted or
//! removed.
//!
//! # What is hashed
//!
//! A record's hash is the SHA-256 of these bytes, one after another:
//!
//! 1. the hash of the record before it, 32 bytes; 32 zero bytes for the first record;
//! 2. three signed integers of 8 bytes, big-endian: the sequence, the organisation's key, and the
//!    instant in microseconds since the Unix epoch;
//! 3. ten texts, each as its length in bytes (an unsigned integer of 4 bytes, big-endian) and its
//!    UTF-8: the principal's id, its name, its source, the request's id, the action, the object's
//!    kind, its id and its name, `before` and `after`.
//!
//! `before` and `after` are hashed as the text that is stored. Both databases store texts without a
//! change and instants in microseconds, so the same record has the same hash in both.
//!
//! # What it can't detect
//!
//! Nothing in the chain is secret. A person with write access to the database can compute all
//! hashes again, or remove the newest records and change the head to match. Only a sequence with
//! its hash that is kept elsewhere reveals that: see [`AuditHead`]. The oldest records can be removed
//! as retention does it, with the hash of the last one kept. `verify` says up to which number records
//! were removed; whether they were old enough is for its reader to judge.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::{Actor, AuditEntry, AuditRecord};
use crate::clock::Timestamp;
use crate::event::{Invalid, OrganisationKey, quoted};

/// The hash of a record. Displayed and parsed as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditHash(pub [u8; 32]);

/// A position in the chain: a record's sequence and hash. Displayed and parsed as `SEQUENCE:HASH`.
/// `verify` prints the newest one. Compared with a later database, it proves that all records up to
/// it are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// The sequence; 0 before the first record.
    pub sequence: i64,
    /// The hash.
    pub hash: AuditHash,
}

impl AuditHead {
    /// Before the first record.
    pub const START: Self = Self { sequence: 0, hash: AuditHash([0; 32]) };

    /// The records that follow this position, in the order of the entries.
    pub fn append(
        self,
        at: Timestamp,
        actor: &Actor,
        entries: Vec<AuditEntry>,
    ) -> Vec<AuditRecord> {
        let mut head = self;
        let records = entries.into_iter().map(|entry| {
            let mut record = AuditRecord {
                sequence: head.sequence + 1,
                organisation: actor.organisation,
                recorded_at: at,
                principal: actor.principal.clone(),
                action: entry.action.as_str().to_owned(),
                object: entry.object,
                before: entry.before.to_json(),
                after: entry.after.to_json(),
                hash: head.hash,
            };
            record.hash = record.hash_after(head.hash);
            head = record.head();
            record
        });
        records.collect()
    }

    /// Moves to the next record. The error says why it does not follow.
    pub fn advance(&mut self, record: &AuditRecord) -> Result<(), String> {
        let expected = self.sequence + 1;
        let sequence = record.sequence;
        if sequence > expected {
            return Err(match sequence - expected {
                1 => format!("record {expected} is missing"),
                _ => format!("records {expected} to {} are missing", sequence - 1),
            });
        }
        if sequence < expected {
            return Err(format!(
                "record {sequence} was inserted before the first one that is kept"
            ));
        }
        if record.hash != record.hash_after(self.hash) {
            return Err(format!(
                "record {sequence} ({} {} at {}) was changed or inserted: its hash does not match",
                quoted(&record.action),
                quoted(&record.object.id),
                record.recorded_at
            ));
        }
        *self = record.head();
        Ok(())
    }
}

impl AuditRecord {
    /// Its position in the chain.
    pub const fn head(&self) -> AuditHead {
        AuditHead { sequence: self.sequence, hash: self.hash }
    }

    /// The hash that it must have after a record with the hash `previous`.
    pub fn hash_after(&self, previous: AuditHash) -> AuditHash {
        let OrganisationKey(organisation) = self.organisation;
        let mut hasher = Sha256::new();
        hasher.update(previous.0);
        for number in [self.sequence, organisation, self.recorded_at.micros()] {
            hasher.update(number.to_be_bytes());
        }
        for text in [
            &self.principal.id,
            &self.principal.name,
            &self.principal.source,
            &self.principal.request_id,
            &self.action,
            &self.object.kind,
            &self.object.id,
            &self.object.name,
            &self.before,
            &self.after,
        ] {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            hasher.update(length.to_be_bytes());
            hasher.update(text.as_bytes());
        }
        AuditHash(hasher.finalize().into())
    }
}

impl Default for AuditHead {
    fn default() -> Self {
        Self::START
    }
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for AuditHead {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parse = || {
            let (sequence, hash) = text.split_once(':')?;
            let sequence = sequence.parse().ok().filter(|sequence| *sequence >= 0)?;
            let hash = HEXLOWER.decode(hash.to_ascii_lowercase().as_bytes()).ok()?;
            Some(Self { sequence, hash: AuditHash(hash.try_into().ok()?) })
        };
        parse().ok_or_else(|| {
            Invalid(format!(
                "{} is not the number of a record, a colon, and its hash of 64 hexadecimal digits",
                quoted(text)
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AuditAction, AuditObject, Facts, Principal};
    use super::*;

    fn records() -> Vec<AuditRecord> {
        let principal =
            Principal::access_token("6kzj2v7qmw4t", "ops", "192.0.2.7".parse().ok(), Some("r-1"));
        let entry = |id| AuditEntry {
            action: AuditAction::GatewayDisabled,
            object: AuditObject::new("gateway", id, "berlin"),
            before: Facts::none().with("disabled", false),
            after: Facts::none().with("disabled", true),
        };
        let at = Timestamp::from_micros(1_767_225_600_123_456);
        let actor = principal.in_organisation(OrganisationKey(1));
        AuditHead::START.append(at, &actor, ["a", "b", "c"].map(entry).into())
    }

    fn check(records: &[AuditRecord]) -> Result<AuditHead, String> {
        let mut head = AuditHead::START;
        records.iter().try_for_each(|record| head.advance(record))?;
        Ok(head)
    }

    /// The hash was computed by another program from the definition above.
    #[test]
    fn the_canonical_form_is_stable() {
        let first = &records()[0];
        assert_eq!(first.before, r#"{"disabled":false}"#);
        assert_eq!(first.hash.to_string(), GOLDEN);
    }

    const GOLDEN: &str = "5608a2c24bf4f268fff6a6771d84cf67a30b44e619d4ba06e576da31973fb3a3";

    #[test]
    fn the_first_record_that_does_not_follow_is_named() {
        let good = records();
        assert_eq!(check(&good).unwrap(), good[2].head());
        let broken = |change: fn(&mut Vec<AuditRecord>)| {
            let mut records = good.clone();
            change(&mut records);
            check(&records).unwrap_err()
        };
        let renamed = broken(|records| records[1].object.name.push('x'));
        assert!(renamed.starts_with("record 2 "), "{renamed}");
        // A text that moves from one field to the next one changes the hash, too.
        let moved = broken(|records| {
            let record = &mut records[1].principal;
            record.name = record.id.split_off(4) + &record.name;
        });
        assert!(moved.starts_with("record 2 "), "{moved}");
        assert_eq!(broken(|records| drop(records.remove(1))), "record 2 is missing");
        let rehashed = broken(|records| {
            records[0].principal.name.clear();
            records[0].hash = records[0].hash_after(AuditHead::START.hash);
        });
        assert!(rehashed.starts_with("record 2 "), "{rehashed}");
        let inserted = broken(|records| {
            let copy = records[1].clone();
            records.insert(1, copy);
            records[2].sequence = 3;
            records[3].sequence = 4;
        });
        assert!(inserted.starts_with("record 3 "), "{inserted}");
    }

    #[test]
    fn a_head_is_displayed_as_it_is_parsed() {
        let head = records()[2].head();
        assert_eq!(head.to_string().parse::<AuditHead>().unwrap(), head);
        for bad in ["", "3", "3:", "3:00", ":", "-1:00", "x:00", &format!("{head}0")] {
            assert!(bad.parse::<AuditHead>().is_err(), "{bad}");
        }
    }
}
