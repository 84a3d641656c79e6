//! Gateways that are typed in, by name or by id.

use super::super::extract::Path;
use super::super::gateways;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::pairs::Pairs;
use super::visit::Visit;
use crate::api::{Gateway, GatewaysQuery, PageQuery};
use crate::event::{GatewayId, quoted};

/// Gateways that one form may name, at most: each is looked up.
const MAX_GATEWAYS: usize = 100;
/// The field of a filter by gateway. Addresses may have [`ID`] instead.
pub(super) const NAME: &str = "gateway";
/// The parameter of the API.
const ID: &str = "gatewayId";

/// The gateway with this name or id. Names are never UUIDs.
pub(super) async fn gateway(visit: &Visit, field: &str, text: &str) -> HandlerResult<Gateway> {
    if let Ok(id) = text.parse::<GatewayId>() {
        let reader = visit.session.reader()?;
        let found = gateways::show(visit.state(), visit.part(), reader, Path(id), Query(())).await;
        return match found {
            Err(problem) if problem.code() == "not_found" => {
                Err(Problem::invalid(field, format!("no gateway has the id {id}")))
            }
            found => found.map(|gateway| gateway.0),
        };
    }
    let named = GatewaysQuery { name: Some(text.to_owned()), id_prefix: None };
    let page = PageQuery { limit: Some(1), cursor: None };
    let reader = visit.session.reader()?;
    let found = gateways::list(visit.state(), visit.part(), reader, Query((named, page))).await?.0;
    let missing = || Problem::invalid(field, format!("no gateway is named {}", quoted(text)));
    found.list.into_iter().next().ok_or_else(missing)
}

/// The gateways of a text with one to a line. Ids may also have blanks or commas between.
pub(super) async fn gateways(
    visit: &Visit,
    field: &str,
    text: &str,
) -> HandlerResult<Vec<Gateway>> {
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let parts: Vec<&str> =
            line.split([' ', ',', '\t']).filter(|part| !part.is_empty()).collect();
        if parts.iter().all(|part| part.parse::<GatewayId>().is_ok()) {
            names.extend(parts);
        } else {
            names.push(line);
        }
    }
    names.dedup();
    if names.len() > MAX_GATEWAYS {
        return Err(Problem::invalid(
            field,
            format!("must be at most {MAX_GATEWAYS} gateways; choose more of them by their labels"),
        ));
    }
    let mut found: Vec<Gateway> = Vec::with_capacity(names.len());
    for name in names {
        let gateway = gateway(visit, field, name).await?;
        if found.iter().all(|other| other.id != gateway.id) {
            found.push(gateway);
        }
    }
    Ok(found)
}

/// The gateway that a query filters by, as it was typed.
pub(super) fn typed(query: &Pairs) -> &str {
    match query.get(NAME) {
        "" => query.get(ID),
        name => name,
    }
}

/// The query of a list, with the id of the gateway that its filter names; and what the filter shows:
/// the gateway's name, or its id if there is no such gateway.
pub(super) async fn filter(visit: &Visit, query: &Pairs) -> HandlerResult<(Pairs, String)> {
    let typed = typed(query);
    if typed.is_empty() {
        return Ok((query.clone(), String::new()));
    }
    let with = |id: &str| query.with(NAME, "").with(ID, id);
    match gateway(visit, NAME, typed).await {
        Ok(gateway) => Ok((with(&gateway.id.to_string()), gateway.name)),
        // The API says what is wrong with an id.
        Err(problem) if problem.code() == "invalid" && typed.parse::<GatewayId>().is_ok() => {
            Ok((with(typed), typed.to_owned()))
        }
        Err(problem) => Err(problem),
    }
}
