//! Arguments that identify a gateway by its id or by its name, which is unique in the organisation.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;
use gateway_events::names::closest;

use super::output::cell;

/// An id or a name. A text that has the form of an id is one.
#[derive(Clone, Debug)]
pub(crate) enum GatewayRef {
    Id(GatewayId),
    Name(String),
}

impl FromStr for GatewayRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("a gateway's name or id is required".to_owned());
        }
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id))
    }
}

impl GatewayRef {
    /// The gateway's id. Looks up a name, which must exist.
    pub(crate) async fn resolve(&self, api: &Api) -> anyhow::Result<GatewayId> {
        match resolve_all(std::slice::from_ref(self), api).await?[..] {
            [id] => Ok(id),
            _ => anyhow::bail!("failed to look up the gateway"),
        }
    }
}

/// The ids of several gateways, in order. Names are looked up with one request.
pub(crate) async fn resolve_all(
    gateways: &[GatewayRef],
    api: &Api,
) -> anyhow::Result<Vec<GatewayId>> {
    let has_names = gateways.iter().any(|one| matches!(one, GatewayRef::Name(_)));
    let list = if has_names { api.gateways().await? } else { Vec::new() };
    let find = |name: &str| Some(list.iter().find(|gateway| gateway.name == name)?.id);
    let resolve = |gateway: &GatewayRef| match gateway {
        GatewayRef::Id(id) => Ok(*id),
        GatewayRef::Name(name) => find(name).ok_or_else(|| {
            let names = list.iter().map(|gateway| gateway.name.as_str());
            unknown(name, names)
        }),
    };
    gateways.iter().map(resolve).collect()
}

/// The names of gateways, by id. Without the scope `read`, or if a gateway was deleted, a name is
/// missing.
pub(crate) struct Names(HashMap<GatewayId, String>);

impl Names {
    /// Looks up the names of these gateways.
    pub(crate) async fn of(ids: impl Iterator<Item = GatewayId>, api: &Api) -> Self {
        /// More gateways than this are looked up in the list of all.
        const FEW: usize = 3;
        let ids: HashSet<GatewayId> = ids.collect();
        let mut gateways = Vec::new();
        if ids.len() <= FEW {
            for id in ids {
                gateways.extend(api.gateway(id).await);
            }
        } else {
            gateways = api.gateways().await.unwrap_or_default();
        }
        Self(gateways.into_iter().map(|gateway| (gateway.id, gateway.name)).collect())
    }

    /// The name or, if it is unknown, the id, as the text of a table's cell.
    pub(crate) fn cell(&self, id: GatewayId) -> String {
        self.0.get(&id).map_or_else(|| cell(id), cell)
    }
}

fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    match closest(name, names) {
        Some(closest) => {
            anyhow::anyhow!("no gateway is named {name:?}; did you mean {closest:?}?")
        }
        None => anyhow::anyhow!(
            "no gateway is named {name:?}; `gateway-events gateway list` shows all names"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_the_form_of_an_id_is_an_id() {
        let id = "0198c0de-0000-7000-8000-000000000001";
        assert!(matches!(id.parse(), Ok(GatewayRef::Id(_))));
        assert!(matches!("berlin".parse(), Ok(GatewayRef::Name(name)) if name == "berlin"));
        assert!(" ".parse::<GatewayRef>().is_err());
    }

    #[test]
    fn a_similar_name_is_suggested() {
        let said = |name| unknown(name, ["amsterdam", "Berlin"].into_iter()).to_string();
        assert!(said("berln").contains("did you mean \"Berlin\""), "{}", said("berln"));
        assert!(said("tokyo").contains("gateway list"), "{}", said("tokyo"));
    }
}
