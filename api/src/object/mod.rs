//! Intent objects: what people declare.
//!
//! A document is `{kind, tenant?, name, spec}` and nothing else, so what the API returns can be applied again. Reading
//! one reports every bad field, not the first one; that is why documents are read from a JSON value by hand
//! ([`Object::from_value`]) and serde's derived readers of the specs only judge it in tests.

mod cidr;
mod error;
mod name;
mod read;
mod spec;

pub use cidr::{Cidr, InvalidCidr};
pub use error::{FieldError, FieldErrors};
pub use name::{InvalidName, InvalidNetworkRef, NAME_LEN_MAX, Name, NetworkRef};
pub use read::FieldProblem;
pub use spec::{
    Attach, HOST_NETWORKS_MAX, HostKind, HostSpec, IFNAME_LEN_MAX, MTU_MAX, MTU_MIN_IPV4, MTU_MIN_IPV6, NetdevAttach,
    NetworkSpec, PORT_ADDRESSES_MAX, PortSpec, SubnetSpec, TapAttach, TenantSpec, UDP_PORT_DEFAULT,
    UNDERLAY_MTU_DEFAULT, UNDERLAY_MTU_MAX,
};

use core::fmt;
use core::str::FromStr;
use std::borrow::Cow;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The kind of an object. The order is that of reference: an object refers only to kinds before its own, but for a
/// host of `kind: vtep`, which names networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "the document types say it")]
pub enum Kind {
    Tenant,
    Network,
    Subnet,
    Host,
    Port,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Self; 5] = [Self::Tenant, Self::Network, Self::Subnet, Self::Host, Self::Port];

    /// As written in a document.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "Tenant",
            Self::Network => "Network",
            Self::Subnet => "Subnet",
            Self::Host => "Host",
            Self::Port => "Port",
        }
    }

    /// As printed for people: `port`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::Host => "host",
            Self::Port => "port",
        }
    }

    /// Whether objects of this kind belong to a tenant.
    pub const fn is_scoped(self) -> bool {
        matches!(self, Self::Network | Self::Subnet | Self::Port)
    }

    /// The kind of that name, as written in a document.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl FromStr for Kind {
    type Err = InvalidKind;

    /// Reads what a person types: `port`, `ports` or `Port`.
    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        let lower = text.to_ascii_lowercase();
        let word = lower.strip_suffix('s').unwrap_or(&lower);
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or_else(|| InvalidKind(text.to_owned()))
    }
}

/// Why a text is not a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of object: use tenant, network, subnet, host or port")]
pub struct InvalidKind(pub String);

/// What an object is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// What it is.
    pub kind: Kind,
    /// Whose it is; `None` for tenants and hosts.
    pub tenant: Option<Name>,
    /// What it is called.
    pub name: Name,
}

impl ObjectKey {
    /// The key of an object that belongs to no tenant.
    pub fn global(kind: Kind, name: &Name) -> Self {
        debug_assert!(!kind.is_scoped(), "{} belongs to a tenant", kind.name());
        Self { kind, tenant: None, name: name.clone() }
    }

    /// The key of an object of a tenant.
    pub fn scoped(kind: Kind, tenant: &Name, name: &Name) -> Self {
        debug_assert!(kind.is_scoped(), "{} belongs to no tenant", kind.name());
        Self { kind, tenant: Some(tenant.clone()), name: name.clone() }
    }
}

impl fmt::Display for ObjectKey {
    /// `port red/a`, `host h1`: also the owner of the rules that come from the object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "{} {tenant}/{}", self.kind.word(), self.name),
            None => write!(f, "{} {}", self.kind.word(), self.name),
        }
    }
}

macro_rules! documents {
    ($($(#[doc = $doc:literal])+ $kind:ident($spec:ident) { $($tenant:ident)? })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq)]
            #[allow(missing_docs, reason = "the same in every document")]
            pub struct $kind {
                $(pub $tenant: Name,)?
                pub name: Name,
                pub spec: $spec,
            }

            impl $kind {
                /// What the object is found by.
                pub fn key(&self) -> ObjectKey {
                    documents!(@key self, $kind, $($tenant)?)
                }
            }

            impl Serialize for $kind {
                fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                    let mut document = s.serialize_struct(stringify!($kind), 4)?;
                    document.serialize_field("kind", stringify!($kind))?;
                    $(document.serialize_field(stringify!($tenant), &self.$tenant)?;)?
                    document.serialize_field("name", &self.name)?;
                    document.serialize_field("spec", &self.spec)?;
                    document.end()
                }
            }

            impl<'de> Deserialize<'de> for $kind {
                fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    match Object::deserialize(d)? {
                        Object::$kind(object) => Ok(object),
                        other => Err(serde::de::Error::custom(format_args!(
                            "{} is not a {}", other.key(), stringify!($kind)
                        ))),
                    }
                }
            }

            impl PartialSchema for $kind {
                fn schema() -> RefOr<Schema> {
                    document_schema(Kind::$kind, stringify!($spec))
                }
            }

            impl ToSchema for $kind {
                fn name() -> Cow<'static, str> {
                    stringify!($kind).into()
                }

                fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                    schemas.push((stringify!($spec).to_owned(), <$spec as PartialSchema>::schema()));
                    <$spec as ToSchema>::schemas(schemas);
                }
            }

            impl From<$kind> for Object {
                fn from(object: $kind) -> Self {
                    Self::$kind(object)
                }
            }
        )+

        /// An object of any kind.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        #[allow(missing_docs, reason = "the document types say it")]
        pub enum Object {
            $($kind($kind),)+
        }

        impl Object {
            /// What the object is found by.
            pub fn key(&self) -> ObjectKey {
                match self { $(Self::$kind(object) => object.key(),)+ }
            }
        }

        impl PartialSchema for Object {
            fn schema() -> RefOr<Schema> {
                OneOfBuilder::new()
                    $(.item(Ref::from_schema_name(stringify!($kind))))+
                    .description(Some("An object of any kind."))
                    .into()
            }
        }

        impl ToSchema for Object {
            fn name() -> Cow<'static, str> {
                "Object".into()
            }

            fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $(
                    schemas.push((stringify!($kind).to_owned(), <$kind as PartialSchema>::schema()));
                    <$kind as ToSchema>::schemas(schemas);
                )+
            }
        }
    };
    (@key $self:ident, $kind:ident, tenant) => { ObjectKey::scoped(Kind::$kind, &$self.tenant, &$self.name) };
    (@key $self:ident, $kind:ident,) => { ObjectKey::global(Kind::$kind, &$self.name) };
}

documents! {
    /// Whose networks and ports are kept apart from everybody else's.
    Tenant(TenantSpec) {}
    /// A layer 2 network: one VNI.
    Network(NetworkSpec) { tenant }
    /// An address range of a network.
    Subnet(SubnetSpec) { tenant }
    /// A machine with a VTEP.
    Host(HostSpec) {}
    /// A guest's attachment to a network, on one host.
    Port(PortSpec) { tenant }
}

impl Object {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        self.key().kind
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        Self::from_value(&value).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            serde::de::Error::custom(lines.join("; "))
        })
    }
}

fn document_schema(kind: Kind, spec: &str) -> RefOr<Schema> {
    let label = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(NAME_LEN_MAX));
    let mut document = ObjectBuilder::new()
        .property("kind", ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind.name()])))
        .required("kind");
    if kind.is_scoped() {
        document = document.property("tenant", label()).required("tenant");
    }
    document
        .property("name", label())
        .required("name")
        .property("spec", Ref::from_schema_name(spec))
        .required("spec")
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .into()
}
