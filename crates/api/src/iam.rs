//! The part of IAM v3 that the clients call on their own: tokens, projects, domains.
//!
//! Entry points: [`TokenRequest::parse`], [`TokenAnswer`], [`ProjectList`], [`DomainList`],
//! [`UserList`].
//! Deliberately absent: roles, catalogs with content, federation.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{At, parse_request};
use crate::password::Secret;
use crate::violation::Violation;

/// A checked request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub identity: Identity,
    pub scope: Option<Scope>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    Password { user: String, domain: Option<String>, password: Secret },
    Token(Secret),
}

/// A project or domain, by id or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Project(NameOrId),
    Domain(NameOrId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    Id(String),
    Name(String),
}

impl TokenRequest {
    /// Takes the methods `password` and `token`, each alone.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let request = parse_request(body)?;
        let mut found = Vec::new();
        let parsed = read_token_request(&At::root(&request), &mut found);
        match parsed {
            Some(parsed) if found.is_empty() => Ok(parsed),
            _ => Err(found),
        }
    }
}

fn read_token_request(root: &At<'_>, found: &mut Vec<Violation>) -> Option<TokenRequest> {
    let auth = mandatory(root, "auth", found)?;
    let identity = mandatory(&auth, "identity", found)?;
    let methods = mandatory(&identity, "methods", found)?;
    let names: Vec<&str> =
        methods.items(found)?.iter().filter_map(|item| item.string(found)).collect();
    let identity = match names.as_slice() {
        ["password"] => {
            let user = mandatory(&mandatory(&identity, "password", found)?, "user", found)?;
            let domain = user.get("domain").and_then(|domain| text(&domain, "name", found));
            let name = text(&user, "name", found);
            let password = secret(&user, "password", found);
            Identity::Password { user: name?, domain, password: password? }
        }
        ["token"] => {
            let token = mandatory(&identity, "token", found)?;
            Identity::Token(secret(&token, "id", found)?)
        }
        _ => {
            let rule = "is not [\"password\"] or [\"token\"]";
            found.push(Violation::new(methods.path, rule));
            return None;
        }
    };
    let scope = match auth.get("scope") {
        None => None,
        Some(scope) => Some(read_scope(&scope, found)?),
    };
    Some(TokenRequest { identity, scope })
}

fn read_scope(scope: &At<'_>, found: &mut Vec<Violation>) -> Option<Scope> {
    let name_or_id = |at: &At<'_>, found: &mut Vec<Violation>| match at.get("id") {
        Some(id) => id.string(found).map(|id| NameOrId::Id(id.to_owned())),
        None => text(at, "name", found).map(NameOrId::Name),
    };
    if let Some(project) = scope.get("project") {
        return name_or_id(&project, found).map(Scope::Project);
    }
    let domain = mandatory(scope, "domain", found)?;
    name_or_id(&domain, found).map(Scope::Domain)
}

fn mandatory<'a>(at: &At<'a>, key: &str, found: &mut Vec<Violation>) -> Option<At<'a>> {
    let child = at.get(key);
    if child.is_none() {
        found.push(Violation::new(at.child_path(key), "is mandatory"));
    }
    child
}

fn text(at: &At<'_>, key: &str, found: &mut Vec<Violation>) -> Option<String> {
    Some(mandatory(at, key, found)?.string(found)?.to_owned())
}

fn secret(at: &At<'_>, key: &str, found: &mut Vec<Violation>) -> Option<Secret> {
    let at = mandatory(at, key, found)?;
    let text = at.value.as_str();
    if text.is_none() {
        found.push(Violation::new(at.path, "is not a string"));
    }
    text.map(Secret::new)
}

/// The answer to a token request. The token itself goes into the header `X-Subject-Token`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenAnswer {
    pub token: TokenBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenBody {
    /// [`crate::meta::iam_time`].
    pub expires_at: String,
    pub issued_at: String,
    pub methods: Vec<String>,
    #[serde(default)]
    pub catalog: Vec<Value>,
    /// Set for a token of a project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectRef>,
    /// Set for a token of a domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Named>,
    #[serde(default)]
    pub roles: Vec<Named>,
    pub user: UserRef,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRef {
    pub id: String,
    pub name: String,
    pub domain: Named,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRef {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub password_expires_at: String,
    pub domain: Named,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectList {
    pub projects: Vec<Project>,
    #[serde(default)]
    pub links: Links,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    pub id: String,
    pub name: String,
    pub domain_id: String,
    #[serde(default)]
    pub parent_id: String,
    #[serde(default)]
    pub is_domain: bool,
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub links: Links,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainList {
    pub domains: Vec<Domain>,
    #[serde(default)]
    pub links: Links,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub links: Links,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserList {
    pub users: Vec<User>,
    #[serde(default)]
    pub links: Links,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub name: String,
    pub domain_id: String,
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    pub password_expires_at: String,
    #[serde(default)]
    pub links: Links,
}

/// Links of IAM; `next` and `previous` are null where there is no further page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Links {
    #[serde(rename = "self")]
    pub this: String,
    pub next: Option<String>,
    pub previous: Option<String>,
}
