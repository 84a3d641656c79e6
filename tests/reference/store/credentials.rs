//! Access tokens and gateway tokens.

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayId, OrganisationKey};
use gateway_events::store::audit::entries;
use gateway_events::store::limits::{LIVE_TOKENS, NOTED_EVERY};
use gateway_events::store::{
    AccessCredential, Actor, Audited, Conflict, Credentials, GatewayCredential, NewToken, Result,
    Scope, StoreError, TokenInfo, TokenKind,
};

use super::MemoryStore;
use super::tables::{Tables, Token};

#[async_trait]
impl Credentials for MemoryStore {
    async fn organisation(&self, name: &str) -> Result<OrganisationKey> {
        self.read(|tables| tables.organisation(name)).await
    }

    async fn has_access_tokens(&self) -> Result<bool> {
        self.read(|tables| Ok(!tables.access_tokens.is_empty())).await
    }

    async fn create_access_token(
        &self,
        actor: &Actor,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| {
            tables.create_access_token(now, organisation, name, scopes, token)
        })
        .await
    }

    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>> {
        self.read(|tables| Ok(tables.list_access_tokens(organisation))).await
    }

    async fn revoke_access_token(&self, actor: &Actor, id: &str) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.revoke_access_token(now, organisation, id)).await
    }

    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>> {
        self.read(|tables| Ok(tables.access_credential(id))).await
    }

    fn note_use(&self, kind: TokenKind, id: &str, last_used_at: Option<Timestamp>) {
        let now = (self.database.0.clock)();
        let is_noted = last_used_at.is_some_and(|at| now.since(at) < NOTED_EVERY);
        if !is_noted && self.check_open().is_ok() {
            self.database.tables().note_use(now, kind, id);
        }
    }

    async fn create_gateway_token(
        &self,
        actor: &Actor,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.create_gateway_token(now, organisation, id, token))
            .await
    }

    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        self.read(|tables| tables.list_gateway_tokens(organisation, id)).await
    }

    async fn revoke_gateway_token(&self, actor: &Actor, id: GatewayId, token: &str) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.revoke_gateway_token(now, organisation, id, token))
            .await
    }

    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>> {
        self.read(|tables| Ok(tables.gateway_credential(token))).await
    }
}

impl Tables {
    pub(super) fn create_access_token(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<Audited<TokenInfo>> {
        if self.access_tokens.contains_key(&token.id) {
            return Err(Conflict::Concurrent.into());
        }
        let mut scopes = scopes.to_vec();
        scopes.sort_unstable();
        scopes.dedup();
        let made = fresh(organisation, token, name, scopes, now);
        let info = made.info.clone();
        self.access_tokens.insert(info.id.clone(), made);
        let entry = entries::access_token_created(&info);
        Ok(Audited::new(info, [entry]))
    }

    pub(super) fn list_access_tokens(&self, organisation: OrganisationKey) -> Vec<TokenInfo> {
        in_order(self.access_tokens.values().filter(|token| token.of == organisation))
    }

    pub(super) fn revoke_access_token(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: &str,
    ) -> Result<Audited<()>> {
        let found = self.access_tokens.get_mut(id).filter(|token| token.of == organisation);
        let token = found.ok_or(StoreError::NotFound("access token"))?;
        let entry =
            revoke(&mut token.info, now).then(|| entries::access_token_revoked(&token.info));
        Ok(Audited::new((), entry))
    }

    pub(super) fn access_credential(&self, id: &str) -> Option<AccessCredential> {
        let token = self.access_tokens.get(id)?;
        Some(AccessCredential {
            digest: token.digest,
            organisation: token.of,
            name: token.info.name.as_str().into(),
            scopes: token.info.scopes.clone(),
            expires_at: token.info.expires_at,
            revoked: token.info.revoked_at.is_some(),
            last_used_at: token.info.last_used_at,
        })
    }

    pub(super) fn create_gateway_token(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        token: NewToken,
    ) -> Result<Audited<TokenInfo>> {
        let gateway = self.live_key(organisation, id)?;
        let is_live = |info: &TokenInfo| {
            info.revoked_at.is_none() && info.expires_at.is_none_or(|at| at > now)
        };
        let own = self.gateway_tokens.values().filter(|token| token.of == gateway);
        let live = i64::try_from(own.filter(|token| is_live(&token.info)).count());
        let live = live.unwrap_or(i64::MAX);
        if live >= LIVE_TOKENS {
            return Err(Conflict::GatewayTokens { gateway: id, live }.into());
        }
        if self.gateway_tokens.contains_key(&token.id) {
            return Err(Conflict::Concurrent.into());
        }
        let made = fresh(gateway, token, "", Vec::new(), now);
        let info = made.info.clone();
        self.gateway_tokens.insert(info.id.clone(), made);
        let name = &self.gateway_row(gateway)?.name;
        let entry = entries::gateway_token_created(id, name, &info);
        Ok(Audited::new(info, [entry]))
    }

    pub(super) fn list_gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        let gateway = self.live_key(organisation, id)?;
        Ok(in_order(self.gateway_tokens.values().filter(|token| token.of == gateway)))
    }

    pub(super) fn revoke_gateway_token(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        token: &str,
    ) -> Result<Audited<()>> {
        let gateway = self.live_key(organisation, id)?;
        let name = self.gateway_row(gateway)?.name.clone();
        let found = self.gateway_tokens.get_mut(token).filter(|token| token.of == gateway);
        let token = found.ok_or(StoreError::NotFound("gateway token"))?;
        let is_new = revoke(&mut token.info, now);
        let entry = is_new.then(|| entries::gateway_token_revoked(id, &name, &token.info));
        Ok(Audited::new((), entry))
    }

    pub(super) fn gateway_credential(&self, id: &str) -> Option<GatewayCredential> {
        let token = self.gateway_tokens.get(id)?;
        let gateway = self.gateways.get(&token.of)?;
        Some(GatewayCredential {
            digest: token.digest,
            gateway: token.of,
            gateway_id: gateway.id,
            gateway_name: gateway.name.clone(),
            organisation: gateway.organisation,
            expires_at: token.info.expires_at,
            revoked: token.info.revoked_at.is_some() || gateway.deleted_at.is_some(),
            disabled: gateway.disabled_at.is_some(),
            last_used_at: token.info.last_used_at,
        })
    }

    /// Records the use of a token, at most once a minute.
    pub(super) fn note_use(&mut self, now: Timestamp, kind: TokenKind, id: &str) {
        let info = match kind {
            TokenKind::Gateway => self.gateway_tokens.get_mut(id).map(|token| &mut token.info),
            TokenKind::Access => self.access_tokens.get_mut(id).map(|token| &mut token.info),
        };
        if let Some(info) = info
            && info.last_used_at.is_none_or(|at| at <= now.minus(NOTED_EVERY))
        {
            info.last_used_at = Some(now);
        }
    }
}

/// Returns false if it was revoked before.
fn revoke(token: &mut TokenInfo, now: Timestamp) -> bool {
    let is_new = token.revoked_at.is_none();
    token.revoked_at = token.revoked_at.or(Some(now));
    is_new
}

fn fresh<Of>(of: Of, token: NewToken, name: &str, scopes: Vec<Scope>, now: Timestamp) -> Token<Of> {
    let NewToken { id, digest, expires_at } = token;
    let info = TokenInfo {
        id,
        name: name.to_owned(),
        scopes,
        created_at: now,
        expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    Token { of, digest, info }
}

fn in_order<'a, Of: 'a>(tokens: impl Iterator<Item = &'a Token<Of>>) -> Vec<TokenInfo> {
    let mut found: Vec<TokenInfo> = tokens.map(|token| token.info.clone()).collect();
    found.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    found
}
