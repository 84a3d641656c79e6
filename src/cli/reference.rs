//! Arguments that identify a gateway by its id or by its name, which is unique in the organisation.

use std::str::FromStr;

use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;

/// How similar a name must be to be suggested, from 0 to 1.
const SIMILAR: f64 = 0.8;

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

fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let similarity = |one: &str| strsim::jaro_winkler(&one.to_lowercase(), &name.to_lowercase());
    let closest = names
        .map(|one| (similarity(one), one))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match closest {
        Some((_, closest)) => {
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
