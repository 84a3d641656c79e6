//! How SQLite stores domain types: timestamps as microseconds, ids and enums as text, keys and
//! sequences as integers. An enum is read with its constructor `stored`, which accepts what a newer
//! version has written: an unknown value must not make a query fail.

use std::error::Error;

use sqlx::encode::IsNull;
use sqlx::sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Encode, Sqlite, Type};

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId, GatewayKey, JobId, NodeId,
    OrganisationKey, Reason, Sequence,
};
use crate::store::Outcome;
use crate::trace_context::TraceParent;

macro_rules! held_as {
    ($held:ty: $($name:ty, $out:expr, $into:expr;)*) => {
        $(
            impl Type<Sqlite> for $name {
                fn type_info() -> SqliteTypeInfo {
                    <$held as Type<Sqlite>>::type_info()
                }
            }

            impl Encode<'_, Sqlite> for $name {
                fn encode_by_ref(
                    &self,
                    buffer: &mut SqliteArgumentsBuffer,
                ) -> Result<IsNull, Box<dyn Error + Send + Sync>> {
                    let into: fn(&$name) -> $held = $into;
                    <$held as Encode<'_, Sqlite>>::encode(into(self), buffer)
                }
            }

            impl Decode<'_, Sqlite> for $name {
                fn decode(value: SqliteValueRef<'_>) -> Result<Self, Box<dyn Error + Send + Sync>> {
                    let held = <$held as Decode<'_, Sqlite>>::decode(value)?;
                    let out: fn($held) -> Result<$name, Box<dyn Error + Send + Sync>> = $out;
                    out(held)
                }
            }
        )*
    };
}

held_as! { i64:
    Timestamp, |held| Ok(Self::from_micros(held)), |it| it.micros();
    Sequence, |held| Ok(Self(held)), |it| it.0;
    GatewayKey, |held| Ok(Self(held)), |it| it.0;
    OrganisationKey, |held| Ok(Self(held)), |it| it.0;
}

held_as! { String:
    GatewayId, |held| Ok(held.parse()?), ToString::to_string;
    ConnectionId, |held| Ok(held.parse()?), ToString::to_string;
    Epoch, |held| Ok(held.parse()?), ToString::to_string;
    NodeId, |held| Ok(held.parse()?), ToString::to_string;
    JobId, |held| Ok(held.parse()?), ToString::to_string;
    EventId, |held| Ok(held.parse()?), ToString::to_string;
    CorrelationId, |held| Ok(held.parse()?), ToString::to_string;
    EventType, |held| Ok(held.parse()?), ToString::to_string;
    Reason, |held| Ok(Self::stored(&held)), ToString::to_string;
    Outcome, |held| Ok(Self::stored(&held)), |it| it.as_str().to_owned();
    TraceParent, |held| Ok(held.parse()?), ToString::to_string;
}
