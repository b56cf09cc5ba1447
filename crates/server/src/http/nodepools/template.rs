//! Login and scripts of a template in clear: opened from a record, taken from a request, sealed again.
//!
//! A clear password is hashed here, at once; what leaves this module holds hashes only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evenkeel_api::Violation;
use evenkeel_api::configuration::Settings;
use evenkeel_api::login::LoginSpec;
use evenkeel_api::nodepool::NodeTemplate;
use evenkeel_api::password::{PasswordInput, Secret};
use evenkeel_api::pool_update::LoginChange;
use evenkeel_api::upgrade::UpgradeTemplate;
use evenkeel_api::upgrade_template::VolumeReset;
use evenkeel_engine::ids::TemplateRevision;
use evenkeel_engine::preview::drift::Parts;
use evenkeel_engine::sync::Awaited;

use super::{node_config, parts};
use crate::http::error::ApiError;
use crate::http::revision::{self, Hidden};
use crate::http::vault::{self, TemplateField, TemplateOwner};
use crate::http::{ApiState, load};
use crate::records::{Dress, Image, KeypairRecord, LoginRecord, NodeConfig, Template, keys};

/// A template in clear. Its secrets hide themselves in `Debug` and are wiped on drop.
#[derive(Clone, Debug, Default)]
pub(super) struct Clear {
    /// Base64.
    pub(super) pre_install: Option<Secret>,
    /// Base64.
    pub(super) post_install: Option<Secret>,
    pub(super) wait_post_install: bool,
    pub(super) retain_volumes: bool,
    pub(super) image: Option<Image>,
    pub(super) dress: Dress,
    pub(super) parts: Parts,
    pub(super) initialized: Vec<Awaited>,
    /// What was set with `PUT .../configuration`; a pool has it beside its template.
    pub(super) configuration: Settings,
    pub(super) config: NodeConfig,
    pub(super) user: String,
    pub(super) ssh_key: Option<String>,
    pub(super) password_hash: Option<Secret>,
    /// Whose password login is taken away.
    pub(super) remove_password: Option<String>,
    /// Whose keys are taken away.
    pub(super) remove_keys: Option<String>,
    /// The login user before this one.
    pub(super) former: Option<String>,
}

impl Clear {
    /// Opens a stored template.
    pub(super) fn open(
        state: &ApiState,
        project: &str,
        owner: TemplateOwner<'_>,
        stored: &Template,
    ) -> Result<Self, ApiError> {
        let open = |field, sealed: &Option<crate::secrets::Sealed>| {
            let place = vault::template(project, owner, field);
            sealed.as_ref().map(|sealed| vault::open(state, &place, sealed)).transpose()
        };
        Ok(Self {
            pre_install: open(TemplateField::PreInstall, &stored.pre_install)?,
            post_install: open(TemplateField::PostInstall, &stored.post_install)?,
            wait_post_install: stored.wait_post_install,
            retain_volumes: stored.retain_volumes,
            image: stored.image.clone(),
            dress: stored.dress.clone(),
            parts: stored.parts.clone(),
            initialized: stored.initialized.clone(),
            configuration: Settings::new(),
            config: stored.config.clone(),
            user: stored.login.user.clone(),
            ssh_key: stored.login.ssh_key.clone(),
            password_hash: open(TemplateField::Password, &stored.login.password)?,
            remove_password: stored.login.remove_password.clone(),
            remove_keys: stored.login.remove_keys.clone(),
            former: stored.login.former.clone(),
        })
    }

    /// The form that is stored.
    pub(super) fn seal(
        &self,
        state: &ApiState,
        project: &str,
        owner: TemplateOwner<'_>,
    ) -> Result<Template, ApiError> {
        let seal = |field, clear: &Option<Secret>| {
            let place = vault::template(project, owner, field);
            clear.as_ref().map(|clear| vault::seal(state, &place, clear.expose())).transpose()
        };
        Ok(Template {
            pre_install: seal(TemplateField::PreInstall, &self.pre_install)?,
            post_install: seal(TemplateField::PostInstall, &self.post_install)?,
            wait_post_install: self.wait_post_install,
            retain_volumes: self.retain_volumes,
            image: self.image.clone(),
            dress: self.dress.clone(),
            parts: self.parts.clone(),
            initialized: self.initialized.clone(),
            config: self.config.clone(),
            login: LoginRecord {
                user: self.user.clone(),
                ssh_key: self.ssh_key.clone(),
                password: seal(TemplateField::Password, &self.password_hash)?,
                remove_password: self.remove_password.clone(),
                remove_keys: self.remove_keys.clone(),
                former: self.former.clone(),
            },
        })
    }

    /// What the revision reads.
    pub(super) fn hidden(&self) -> Hidden<'_> {
        Hidden {
            pre_install: self.pre_install.as_ref().map(Secret::expose),
            post_install: self.post_install.as_ref().map(Secret::expose),
            user: &self.user,
            ssh_key: self.ssh_key.as_deref(),
            password_hash: self.password_hash.as_ref().map(Secret::expose),
            remove_password: self.remove_password.as_deref(),
            remove_keys: self.remove_keys.as_deref(),
        }
    }

    /// The revision together with the open part of a pool's template, whose fields are kept in words.
    pub(super) fn settle(&mut self, template: &NodeTemplate) -> TemplateRevision {
        self.parts = revision::parts(template, &self.configuration, &self.hidden());
        revision::revision(template, &self.configuration, &self.hidden())
    }

    /// The same for a template that came with a request.
    pub(super) fn settle_request(&mut self, template: &UpgradeTemplate) -> TemplateRevision {
        self.parts = revision::parts_of_request(template, &self.hidden());
        revision::revision_of_request(template, &self.hidden())
    }

    /// Moves scripts out of a pool's template, where they would be stored in clear.
    pub(super) fn take_scripts(&mut self, template: &mut NodeTemplate) {
        self.wait_post_install = template.wait_post_install_finish.unwrap_or(false);
        let plain = serde_json::to_value(&*template).unwrap_or_default();
        self.retain_volumes = parts::retains_volumes(&plain);
        self.image = parts::image(&plain);
        self.dress = parts::dress(&plain);
        self.initialized = parts::awaited(template.initialized_conditions.iter().flatten());
        self.set_config(template);
        let (pre, post) = match &mut template.extend_param {
            Some(extend) => (extend.pre_install.take(), extend.post_install.take()),
            None => (None, None),
        };
        self.pre_install = pre.filter(|text| !text.is_empty()).map(Secret::new);
        self.post_install = post.filter(|text| !text.is_empty()).map(Secret::new);
    }

    /// What goes to the hosts, from template and configuration.
    pub(super) fn set_config(&mut self, template: &NodeTemplate) {
        let plain = serde_json::to_value(template).unwrap_or_default();
        self.config = node_config::of(&plain, &self.configuration);
    }

    /// Puts them back for an answer: whoever may read the pool may read its scripts, as in CCE.
    pub(super) fn give_scripts(&self, template: &mut NodeTemplate) {
        if self.pre_install.is_none() && self.post_install.is_none() {
            return;
        }
        let extend = template.extend_param.get_or_insert_default();
        extend.pre_install = self.pre_install.as_ref().map(|script| script.expose().to_owned());
        extend.post_install = self.post_install.as_ref().map(|script| script.expose().to_owned());
    }

    /// Takes a login over. A password that the stored hash was made from keeps that hash: the same password again
    /// is no change.
    pub(super) async fn set_login(
        &mut self,
        state: &ApiState,
        login: &LoginSpec,
    ) -> Result<(), ApiError> {
        (self.remove_password, self.remove_keys) = (None, None);
        let user = match login {
            LoginSpec::SshKey(_) => "root",
            LoginSpec::Password { username, .. } => username,
        };
        if self.user != user && !self.user.is_empty() {
            self.former = Some(self.user.clone());
        }
        match login {
            LoginSpec::SshKey(name) => {
                "root".clone_into(&mut self.user);
                self.ssh_key = Some(name.clone());
                self.password_hash = None;
            }
            LoginSpec::Password { username, password } => {
                let known = self.password_hash.take().filter(|_| self.user == *username);
                self.user.clone_from(username);
                self.ssh_key = None;
                self.password_hash = Some(hashed(state, password, known.as_ref()).await?);
            }
        }
        Ok(())
    }

    /// Takes over what an update says of the login.
    pub(super) async fn change_login(
        &mut self,
        state: &ApiState,
        change: &LoginChange,
    ) -> Result<(), ApiError> {
        match change {
            LoginChange::Keep => Ok(()),
            LoginChange::Set { login, remove_other } => {
                let before = self.user.clone();
                self.set_login(state, login).await?;
                // What goes is the other credential of whoever had it.
                let whose = remove_other.then_some(before);
                match login {
                    LoginSpec::SshKey(_) => self.remove_password = whose,
                    LoginSpec::Password { .. } => self.remove_keys = whose,
                }
                Ok(())
            }
            LoginChange::Remove { ssh_key, user_password } => {
                // A credential that this login is not made of may be left from the user before.
                let whose = |own: bool, clear: &Self| match &clear.former {
                    Some(former) if !own => former.clone(),
                    _ => clear.user.clone(),
                };
                if *ssh_key {
                    self.remove_keys = Some(whose(self.ssh_key.is_some(), self));
                }
                if *user_password {
                    self.remove_password = Some(whose(self.password_hash.is_some(), self));
                }
                if *ssh_key {
                    self.ssh_key = None;
                }
                if *user_password {
                    self.password_hash = None;
                }
                Ok(())
            }
        }
    }

    /// The template that came with a request. `known` is a hash that a clear password may have been turned into
    /// before.
    pub(super) async fn of_request(
        state: &ApiState,
        template: &UpgradeTemplate,
        known: Option<&Secret>,
    ) -> Result<Self, ApiError> {
        let script = |script: &Option<Vec<u8>>| {
            let script = script.as_ref().filter(|script| !script.is_empty());
            script.map(|script| Secret::new(STANDARD.encode(script)))
        };
        let mut clear = Self {
            pre_install: script(&template.pre_install),
            post_install: script(&template.post_install),
            wait_post_install: template.wait_post_install_finish.unwrap_or(false),
            initialized: template.initialized.iter().map(parts::of).collect(),
            retain_volumes: template.volume_reset == VolumeReset::RetainCustomVolumes,
            image: Image::named(&template.os, &template.image_id, &template.runtime),
            user: "root".to_owned(),
            ..Self::default()
        };
        match &template.login {
            None => {}
            Some(LoginSpec::SshKey(name)) => clear.ssh_key = Some(name.clone()),
            Some(LoginSpec::Password { username, password }) => {
                clear.user.clone_from(username);
                clear.password_hash = Some(hashed(state, password, known).await?);
            }
        }
        Ok(clear)
    }
}

/// The hash to store for a password. The work is done off the runtime: it is slow on purpose.
async fn hashed(
    state: &ApiState,
    password: &PasswordInput,
    known: Option<&Secret>,
) -> Result<Secret, ApiError> {
    let clear = match password {
        PasswordInput::Hashed(hash) => return Ok(hash.clone()),
        PasswordInput::Clear(clear) => clear.clone(),
    };
    let (passwords, known) = (state.passwords.clone(), known.cloned());
    let work = tokio::task::spawn_blocking(move || match known {
        Some(known) if passwords.matches(clear.expose(), known.expose()) => Ok(known),
        _ => passwords.hash(clear.expose()).map(Secret::new),
    });
    work.await
        .map_err(|error| ApiError::internal("hashing a password broke off", error))?
        .map_err(|error| ApiError::internal("a password could not be hashed", error))
}

/// The public keys of a key pair, or what is wrong with the name.
pub(super) async fn keypair(
    state: &ApiState,
    project: &str,
    name: &str,
    field: &str,
) -> Result<Result<Vec<String>, Violation>, ApiError> {
    let found = load::find::<KeypairRecord>(&*state.store, keys::keypair(project, name)).await?;
    Ok(found.map(|stored| stored.record.public_keys).ok_or_else(|| {
        Violation::new(field, "names a key pair that does not exist")
            .with_value(&serde_json::Value::from(name))
            .with_way_out(
                "import it with `evenkeel keypair import NAME FILE`, or send userPassword",
            )
    }))
}
