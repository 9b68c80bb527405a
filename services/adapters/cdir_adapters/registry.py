"""Which kinds of provider there are, where their code lies and which options they take.

The table below is the one list of kinds. A kind's class is imported only when a provider of that kind is opened, so a
library that is not installed is missed only by those who want it. Adding a kind takes its module in ``providers/``, one
entry here, one extra in ``pyproject.toml`` and one conformance test.

Every adapter class is constructed as ``Class(name=…, options=…)``::

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None

where ``options`` are the typed values of :func:`validate_options`: an option that was not given holds its default, or
is absent when it has none. The constructor does no input or output; ``check`` and ``prepare`` do. What the kind can do
at best stands in the class attribute ``capability``; an instance may narrow it.

Out-of-tree kinds are found through the entry-point group ``cdir.adapters``: an entry point's value names a
:class:`KindSpec`. A kind of the table below wins over one of the same name from outside.

Options that all kinds share (location, priority, cost, read_only, bandwidth) belong to the catalog, not to the adapter,
and do not appear here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os.path
from collections.abc import Mapping
from types import MappingProxyType

from cdir.errors import ConfigInvalid, InvalidArgument, Unsupported
from cdir_adapters.adapter import Adapter
from cdir_adapters.capability import Capability

__all__ = [
    "ENTRY_POINT_GROUP",
    "KindSpec",
    "OptionSpec",
    "OptionType",
    "OptionValue",
    "adapter_class",
    "declared_capability",
    "find_kind",
    "kinds",
    "missing_library",
    "open_adapter",
    "split_secrets",
    "validate_options",
]

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "cdir.adapters"

OptionValue = str | int | bool


class OptionType(enum.StrEnum):
    STR = "str"
    INT = "int"
    """A decimal number that is not negative."""
    BOOL = "bool"
    """``true``, ``yes``, ``on``, ``1`` or their opposites, in any case."""
    PATH = "path"
    """An absolute path on the machine where the adapter runs; ``~`` stands for the home folder there."""


@dataclasses.dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option of a kind."""

    name: str
    description: str
    """One sentence for a person."""
    type: OptionType = OptionType.STR
    required: bool = False
    secret: bool = False
    """Given apart from the others, stored sealed and never shown again."""
    default: OptionValue | None = None
    """``None``: the option is absent when it is not given, and the description says what that means."""
    choices: tuple[str, ...] = ()
    """The only values allowed; empty allows all."""


@dataclasses.dataclass(frozen=True, slots=True)
class KindSpec:
    """One kind of provider: the name people write, its class and its options."""

    kind: str
    target: str
    """``package.module:Class`` of the adapter."""
    description: str
    extra: str | None = None
    """The extra of the ``cdir`` distribution that brings the libraries it needs; ``None`` when it needs none."""
    libraries: tuple[str, ...] = ()
    """The packages of that extra that it imports."""
    options: tuple[OptionSpec, ...] = ()

    def option(self, name: str) -> OptionSpec:
        """Return the option of that name. Raises InvalidArgument, listing those that exist."""
        for spec in self.options:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self.options) or "none"
        raise InvalidArgument(f"kind {self.kind} has no option {name!r}; its options are: {known}", option=name)


_KINDS = (
    KindSpec(
        kind="local",
        target="cdir_adapters.providers.local:LocalAdapter",
        description="A folder on a disk, a memory card or a network mount of this machine.",
        options=(
            OptionSpec("root", "Folder that holds everything; it is made when it is missing.", OptionType.PATH, True),
        ),
    ),
    KindSpec(
        kind="memory",
        target="cdir_adapters.providers.memory:MemoryAdapter",
        description="Memory of the adapter's own process, for trials and tests; gone when the process ends.",
    ),
    KindSpec(
        kind="s3",
        target="cdir_adapters.providers.s3:S3Adapter",
        extra="s3",
        libraries=("aiobotocore", "httptools"),
        description="Amazon S3 and every service that speaks its protocol.",
        options=(
            OptionSpec("bucket", "Bucket that holds everything; it is made when it is missing.", required=True),
            OptionSpec("endpoint", "URL of the service; not given, it is Amazon's for the region."),
            OptionSpec("region", "Region that requests are signed for; not given, it is us-east-1."),
            OptionSpec("prefix", "Folder inside the bucket that holds everything.", default=""),
            OptionSpec(
                "path_style",
                "Put the bucket into the path instead of the host name; not given, that is done for every endpoint that"
                " is not Amazon's.",
                OptionType.BOOL,
            ),
            OptionSpec(
                "profile",
                "Name of the service, whose known deviations are then allowed for; not given, it is generic, or aws"
                " where there is no endpoint.",
                choices=(
                    *("aws", "gcs", "ceph", "minio", "oracle", "idrive_e2", "mega_s4", "backblaze", "wasabi", "r2"),
                    *("walrus", "cumulus", "hosteurope", "connectria", "generic"),
                ),
            ),
            OptionSpec(
                "signature",
                "Version of the request signature; not given, it follows from the profile: v2 for services from before"
                " 2014, else v4.",
                choices=("v4", "v2"),
            ),
            OptionSpec(
                "ca_file",
                "Certificates to trust instead of the machine's, for an endpoint with a certificate of your own.",
                OptionType.PATH,
            ),
            OptionSpec("access_key", "Access key; not given, the machine's own credentials are looked up."),
            OptionSpec("secret_key", "Secret that belongs to the access key.", secret=True),
            OptionSpec("session_token", "Token of temporary credentials.", secret=True),
        ),
    ),
    KindSpec(
        kind="sftp",
        target="cdir_adapters.providers.sftp:SftpAdapter",
        extra="sftp",
        libraries=("asyncssh",),
        description="A folder on a computer reached by SSH.",
        options=(
            OptionSpec("host", "Name or address of the computer.", required=True),
            OptionSpec("port", "Port of its SSH server.", OptionType.INT, default=22),
            OptionSpec("user", "Account there; not given, it is the one that runs the adapter."),
            OptionSpec(
                "root",
                "Folder there that holds everything; without a leading slash it lies in the home folder, not given it"
                " is the home folder.",
                default="",
            ),
            OptionSpec(
                "host_key",
                "Public key of the server, as 'type base64' or its SHA256 fingerprint; not given, the server is refused"
                " and the error shows its key. With '@cert-authority' before it, it is that of the authority that"
                " signed the server's certificate.",
            ),
            OptionSpec(
                "key_file",
                "Private key to sign in with, and its certificate beside it where there is one (KEY-cert.pub). With"
                " neither key nor password, the SSH agent and the keys of the account that runs the adapter are tried.",
                OptionType.PATH,
            ),
            OptionSpec(
                "jump",
                "SSH server to go over, as user@host:port; user and port may be left out. The same key or password"
                " signs in there.",
            ),
            OptionSpec("jump_host_key", "Public key of that server, as host_key."),
            OptionSpec("password", "Password of the account.", secret=True),
            OptionSpec("passphrase", "Passphrase of the private key.", secret=True),
        ),
    ),
    KindSpec(
        kind="azure",
        target="cdir_adapters.providers.azure:AzureAdapter",
        extra="azure",
        libraries=("azure", "aiohttp"),
        description="Azure Blob Storage, in the public cloud and the sovereign ones, and its emulator Azurite.",
        options=(
            OptionSpec("container", "Container that holds everything; it is made when it is missing.", required=True),
            OptionSpec("account", "Name of the storage account."),
            OptionSpec(
                "endpoint",
                "URL of the account's blob service, for sovereign clouds and the emulator; not given, it is that of the"
                " account in the public cloud.",
            ),
            OptionSpec("prefix", "Folder inside the container that holds everything.", default=""),
            OptionSpec(
                "ca_file",
                "Certificates to trust instead of the machine's, for an endpoint with a certificate of your own.",
                OptionType.PATH,
            ),
            OptionSpec("key", "Key of the storage account.", secret=True),
            OptionSpec(
                "sas",
                "Shared access signature to use instead of the key; it must allow to read, add, create, write, delete"
                " and list.",
                secret=True,
            ),
            OptionSpec(
                "connection_string",
                "What the portal shows as connection string, in place of account, endpoint, key and sas.",
                secret=True,
            ),
        ),
    ),
    KindSpec(
        kind="gcs",
        target="cdir_adapters.providers.gcs:GcsAdapter",
        extra="gcs",
        libraries=("aiohttp", "google.auth", "requests"),
        description="Google Cloud Storage by its own interface (JSON), with a service account.",
        options=(
            OptionSpec("bucket", "Bucket that holds everything; it is made when it is missing.", required=True),
            OptionSpec("endpoint", "URL of an emulator or of an endpoint of your own; not given, it is Google's."),
            OptionSpec("prefix", "Folder inside the bucket that holds everything.", default=""),
            OptionSpec("project", "Project to make a missing bucket in; not given, it is that of the credentials."),
            OptionSpec("location", "Where a missing bucket is made, as in europe-west3; not given, Google decides."),
            OptionSpec(
                "ca_file",
                "Certificates to trust instead of the machine's, for an endpoint with a certificate of your own.",
                OptionType.PATH,
            ),
            OptionSpec(
                "credentials",
                "JSON of a service account's key, or the path of the file with it where the adapter runs; not given, it"
                " is the machine's own sign-in at Google, and none at all at an endpoint that is not Google's.",
                secret=True,
            ),
        ),
    ),
    KindSpec(
        kind="webdav",
        target="cdir_adapters.providers.webdav:WebdavAdapter",
        extra="webdav",
        libraries=("aiohttp",),
        description="A folder on Nextcloud, ownCloud, Apache or any other WebDAV server.",
        options=(
            OptionSpec("url", "URL of the folder that holds everything; it is made when it is missing.", required=True),
            OptionSpec(
                "profile",
                "Service, whose known deviations are then allowed for.",
                default="generic",
                choices=("generic", "nextcloud", "owncloud", "apache", "pcloud", "box", "icedrive", "koofr", "wsgidav"),
            ),
            OptionSpec("user", "Account there; not given, requests go without one."),
            OptionSpec("auth", "How user and password are shown.", default="basic", choices=("basic", "digest")),
            OptionSpec("ca_file", "Certificates of authorities to trust instead of the machine's.", OptionType.PATH),
            OptionSpec(
                "verify_tls",
                "Whether the server's certificate must be trusted; false accepts any server.",
                OptionType.BOOL,
                default=True,
            ),
            OptionSpec("password", "Password of the account, best one made for this application.", secret=True),
            OptionSpec("token", "Bearer token, instead of user and password.", secret=True),
        ),
    ),
    KindSpec(
        kind="ftp",
        target="cdir_adapters.providers.ftp:FtpAdapter",
        description="A folder on an FTP server, under TLS or, where nothing else is offered, in the clear.",
        options=(
            OptionSpec("host", "Name or address of the server.", required=True),
            OptionSpec("port", "Its port; not given, it is 21, and 990 with tls=implicit.", OptionType.INT),
            OptionSpec(
                "tls",
                "How TLS begins: asked for after connecting (explicit), from the first byte (implicit), or never (off),"
                " which lets anybody on the way read the password and the files.",
                default="explicit",
                choices=("explicit", "implicit", "off"),
            ),
            OptionSpec("user", "Account there; not given, it is anonymous."),
            OptionSpec(
                "root",
                "Folder there that holds everything; without a leading slash it lies in the folder where the server"
                " puts its user, not given it is that folder.",
                default="",
            ),
            OptionSpec("ca_file", "Certificates of authorities to trust instead of the machine's.", OptionType.PATH),
            OptionSpec(
                "fingerprint",
                "SHA-256 of the one certificate to trust, whoever signed it; the error about an unknown one shows it.",
            ),
            OptionSpec(
                "verify_tls",
                "Whether the server's certificate must be trusted; false accepts any server: prefer fingerprint.",
                OptionType.BOOL,
                default=True,
            ),
            OptionSpec(
                "connections",
                "The most control connections at once, from 2 to 32; many servers allow only a few for each user.",
                OptionType.INT,
                default=6,
            ),
            OptionSpec("password", "Password of the account.", secret=True),
        ),
    ),
    KindSpec(
        kind="swift",
        target="cdir_adapters.providers.swift:SwiftAdapter",
        extra="swift",
        libraries=("aiohttp",),
        description="OpenStack Swift and every service that speaks its protocol.",
        options=(
            OptionSpec("container", "Container that holds everything; it is made when it is missing.", required=True),
            OptionSpec(
                "auth_url",
                "URL of the sign-in, such as https://example.org:5000/v3 or https://example.org/auth/v1.0.",
                required=True,
            ),
            OptionSpec(
                "auth_version",
                "Way of signing in: 3 is Keystone, 1 the older one; not given, it follows from auth_url.",
                choices=("3", "1"),
            ),
            OptionSpec("prefix", "Folder inside the container that holds everything.", default=""),
            OptionSpec("user", "Name of the user; of version 1, account and user with a colon between them."),
            OptionSpec("user_domain", "Domain of the user.", default="Default"),
            OptionSpec("project", "Name of the project that the container belongs to."),
            OptionSpec("project_id", "Id of the project, instead of its name."),
            OptionSpec("project_domain", "Domain of the project; not given, it is that of the user."),
            OptionSpec("application_credential_id", "Application credential to sign in with, instead of user and key."),
            OptionSpec("region", "Region, where the catalog names several."),
            OptionSpec(
                "interface",
                "Which of the endpoints in the catalog to use.",
                default="public",
                choices=("public", "internal", "admin"),
            ),
            OptionSpec("storage_url", "URL of the account; not given, it is what the sign-in says."),
            OptionSpec("ca_file", "Certificates of authorities to trust beside the machine's.", OptionType.PATH),
            OptionSpec(
                "verify_tls",
                "Whether the server's certificate must be trusted; false accepts any server.",
                OptionType.BOOL,
                default=True,
            ),
            OptionSpec("key", "Password or key of the user.", secret=True),
            OptionSpec(
                "application_credential_secret", "Secret that belongs to the application credential.", secret=True
            ),
        ),
    ),
    KindSpec(
        kind="rclone",
        target="cdir_adapters.providers.rclone:RcloneAdapter",
        extra="rclone",
        libraries=("aiohttp",),
        description="Any of the services that the program rclone speaks to, such as MEGA, Proton Drive or Koofr.",
        options=(
            OptionSpec(
                "remote",
                "Remote of an rclone configuration file, with a folder in it if wanted, as in mega:backup; either this"
                " or type.",
            ),
            OptionSpec("config", "That configuration file; not given, it is rclone's own.", OptionType.PATH),
            OptionSpec("type", "Backend of rclone, as in mega; either this or remote."),
            OptionSpec(
                "parameters",
                "With type: options of the backend, as in host=example.org,user=me; a value with a comma stands in"
                " quotes.",
            ),
            OptionSpec(
                "root", "Folder in the remote that holds everything; it is made when it is missing.", default=""
            ),
            OptionSpec(
                "program",
                "The program rclone, 1.75 or newer; not given, it is that of the extra, else that on the path.",
                OptionType.PATH,
            ),
            OptionSpec(
                "staging",
                "Folder for files on their way to the service; not given, it is the machine's for temporary files.",
                OptionType.PATH,
            ),
            OptionSpec(
                "staging_limit",
                "MiB that may lie there at once, which is also the size of the largest file.",
                OptionType.INT,
                default=10240,
            ),
            OptionSpec(
                "secrets",
                "With type: secret options of the backend, written as parameters are; passwords in the clear.",
                secret=True,
            ),
            OptionSpec("config_password", "Password of an encrypted configuration file.", secret=True),
        ),
    ),
)

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@functools.cache
def kinds() -> Mapping[str, KindSpec]:
    """Return every kind by name, those of installed entry points included. One that cannot be loaded is left out and
    logged."""
    found: dict[str, KindSpec] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = point.load()
        except Exception:
            logger.exception("the adapter kind %s (%s) cannot be loaded and is left out", point.name, point.value)
            continue
        if isinstance(spec, KindSpec):
            found[spec.kind] = spec
        else:
            logger.error("the entry point %s (%s) does not name a KindSpec and is left out", point.name, point.value)
    found.update((spec.kind, spec) for spec in _KINDS)
    return MappingProxyType(dict(sorted(found.items())))


def find_kind(kind: str) -> KindSpec:
    """Return the kind of that name. Raises InvalidArgument, listing those that exist."""
    try:
        return kinds()[kind]
    except KeyError:
        raise InvalidArgument(f"there is no kind {kind!r}; the kinds are: {', '.join(kinds())}", kind=kind) from None


def _parse(kind: str, spec: OptionSpec, text: str) -> OptionValue:
    """Turn an option's text into its value. The text of a secret never enters a message."""
    if spec.choices and text not in spec.choices:
        raise ConfigInvalid(f"{kind}: option {spec.name} must be one of {', '.join(spec.choices)}", option=spec.name)
    match spec.type:
        case OptionType.STR:
            return text
        case OptionType.INT:
            if not (text.isascii() and text.isdigit()):
                raise ConfigInvalid(
                    f"{kind}: option {spec.name} must be a whole number, not {text!r}", option=spec.name
                )
            return int(text)
        case OptionType.BOOL:
            word = text.lower()
            if word not in _TRUE | _FALSE:
                raise ConfigInvalid(f"{kind}: option {spec.name} must be true or false, not {text!r}", option=spec.name)
            return word in _TRUE
        case OptionType.PATH:
            path = os.path.expanduser(text)
            if not os.path.isabs(path):
                raise ConfigInvalid(
                    f"{kind}: option {spec.name} must be an absolute path, not {text!r}", option=spec.name
                )
            return os.path.normpath(path)


def validate_options(kind: str, options: Mapping[str, str]) -> dict[str, OptionValue]:
    """Return the typed values of ``options`` (plain and secret ones together), defaults filled in.

    An empty text counts as not given. Raises InvalidArgument for an unknown kind or option, naming those that exist,
    and ConfigInvalid for a required option that is missing or a value that cannot be.
    """
    spec = find_kind(kind)
    for name in options:
        spec.option(name)
    missing = [option.name for option in spec.options if option.required and not options.get(option.name)]
    if missing:
        raise ConfigInvalid(
            f"kind {kind} needs the option{'s'[: len(missing) > 1]} {', '.join(missing)};"
            f" its options are: {', '.join(option.name for option in spec.options)}",
            option=missing[0],
        )
    values: dict[str, OptionValue] = {}
    for option in spec.options:
        text = options.get(option.name, "")
        if text:
            values[option.name] = _parse(kind, option, text)
        elif option.default is not None:
            values[option.name] = option.default
    return values


def split_secrets(kind: str, options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Part ``options`` into the plain ones and the secret ones. Raises InvalidArgument for an unknown option."""
    spec = find_kind(kind)
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    for name, value in options.items():
        (secret if spec.option(name).secret else plain)[name] = value
    return plain, secret


def missing_library(kind: str) -> str:
    """Say what to install before a kind can be used; empty when nothing is missing. Imports nothing."""
    spec = find_kind(kind)
    for library in spec.libraries:
        if importlib.util.find_spec(library) is None:
            return _lacks(spec, library)
    return ""


def _lacks(spec: KindSpec, library: str) -> str:
    return f"kind {spec.kind} needs the library {library}, which is not installed: pip install 'cdir[{spec.extra}]'"


def adapter_class(kind: str) -> type[Adapter]:
    """Import the class of a kind. Raises Unsupported when a library it needs is not installed."""
    spec = find_kind(kind)
    module_name, _, class_name = spec.target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or f"{module_name}.".startswith(f"{error.name}.") or spec.extra is None:
            raise  # the adapter's own module is missing, not a library it needs
        raise Unsupported(_lacks(spec, error.name.partition(".")[0]), kind=kind) from error
    found = getattr(module, class_name)
    assert isinstance(found, type)
    assert issubclass(found, Adapter)
    return found


def declared_capability(kind: str) -> Capability:
    """Return what providers of a kind can do at best. Raises Unsupported when its library is not installed."""
    return adapter_class(kind).capability


def open_adapter(kind: str, name: str, options: Mapping[str, str]) -> Adapter:
    """Return the bare adapter of the provider ``name``; ``options`` are its plain and secret options together.

    Nothing is contacted yet. The errors are those of :func:`validate_options` and :func:`adapter_class`.
    """
    values = validate_options(kind, options)
    make = adapter_class(kind)
    return make(name=name, options=values)  # type: ignore[call-arg] # the constructor's form is stated above, not in Adapter
