//! How Postgres stores domain types: timestamps as `timestamptz`, ids as `uuid`, enums as text,
//! keys and sequences as `bigint`. An enum is read with its constructor `stored`, which accepts
//! what a newer version has written: an unknown value must not make a query fail.

use std::error::Error;

use sqlx::encode::IsNull;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId, GatewayKey, JobId, NodeId,
    OrganisationKey, Reason, Sequence,
};
use crate::store::Outcome;
use crate::trace_context::TraceParent;

type Failure = Box<dyn Error + Send + Sync>;

macro_rules! held_as {
    ($held:ty: $($name:ty, $out:expr, $into:expr;)*) => {
        $(
            impl Type<Postgres> for $name {
                fn type_info() -> PgTypeInfo {
                    <$held as Type<Postgres>>::type_info()
                }

                fn compatible(info: &PgTypeInfo) -> bool {
                    <$held as Type<Postgres>>::compatible(info)
                }
            }

            impl Encode<'_, Postgres> for $name {
                fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, Failure> {
                    let into: fn(&$name) -> $held = $into;
                    <$held as Encode<'_, Postgres>>::encode(into(self), buffer)
                }
            }

            impl Decode<'_, Postgres> for $name {
                fn decode(value: PgValueRef<'_>) -> Result<Self, Failure> {
                    let held = <$held as Decode<'_, Postgres>>::decode(value)?;
                    let out: fn($held) -> Result<$name, Failure> = $out;
                    out(held)
                }
            }
        )*
    };
}

held_as! { i64:
    Sequence, |held| Ok(Self(held)), |it| it.0;
    GatewayKey, |held| Ok(Self(held)), |it| it.0;
    OrganisationKey, |held| Ok(Self(held)), |it| it.0;
}

held_as! { Uuid:
    GatewayId, |held| Ok(Self(held)), |it| it.0;
    ConnectionId, |held| Ok(Self(held)), |it| it.0;
    Epoch, |held| Ok(Self(held)), |it| it.0;
    NodeId, |held| Ok(Self(held)), |it| it.0;
    JobId, |held| Ok(Self(held)), |it| it.0;
}

held_as! { String:
    EventId, |held| Ok(held.parse()?), ToString::to_string;
    CorrelationId, |held| Ok(held.parse()?), ToString::to_string;
    EventType, |held| Ok(held.parse()?), ToString::to_string;
    Reason, |held| Ok(Self::stored(&held)), ToString::to_string;
    Outcome, |held| Ok(Self::stored(&held)), |it| it.as_str().to_owned();
    TraceParent, |held| Ok(held.parse()?), ToString::to_string;
}

/// Object ids of built-in types (pg_type.dat).
const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);

/// Postgres counts microseconds from 2000-01-01, and represents the infinities by the two ends of
/// `i64`.
const EPOCH: i64 = 946_684_800_000_000;
/// 4713-11-24 BC, the earliest timestamp that it can represent.
const EARLIEST: i64 = -211_813_488_000_000_000;

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, Failure> {
        <i64 as Encode<'_, Postgres>>::encode(to_postgres(self.micros()), buffer)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, Failure> {
        match value.format() {
            PgValueFormat::Binary => {
                let held = <i64 as Decode<'_, Postgres>>::decode(value)?;
                Ok(Self::from_micros(from_postgres(held)))
            }
            // Only the simple protocol sends text, and no query here uses it.
            PgValueFormat::Text => Err("an instant came as text".into()),
        }
    }
}

fn to_postgres(micros: i64) -> i64 {
    let held = micros.saturating_sub(EPOCH);
    if micros == i64::MAX {
        i64::MAX
    } else if held < EARLIEST {
        i64::MIN
    } else {
        held
    }
}

fn from_postgres(held: i64) -> i64 {
    if held == i64::MIN { i64::MIN } else { held.saturating_add(EPOCH) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_and_infinities_round_trip() {
        for micros in [0, 1, -1, 1_767_225_600_123_456, -62_135_596_800_000_000] {
            assert_eq!(from_postgres(to_postgres(micros)), micros);
        }
        assert_eq!(to_postgres(i64::MIN), i64::MIN);
        assert_eq!(to_postgres(i64::MAX), i64::MAX);
        assert_eq!(from_postgres(i64::MAX), i64::MAX);
        assert!(to_postgres(i64::MAX - 1) < i64::MAX);
    }
}
