"""What a session is: every value, typed, with its unit and the reason for its default.

The one truth behind `dozlab up -f/--set` and the reference page; `chart_values` adds what only the chart knows, and
both together are the chart's `values.schema.json`, values.yaml and README table (design.md D1).
Pure: no files, no network. Only `session` and `cli` import it, since pydantic costs 0.2 s at start.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from dozlab.lib.errors import BadUsage
from dozlab.lib.names import SESSION_ID
from dozlab.lib.units import MIB, format_size, parse_duration, parse_size

PLACEHOLDER_PASSWORD = "CHANGE-ME-INSECURE-PASSWORD"  # noqa: S105  (the original chart's; refused)
MIN_DISK = 64 * MIB
"""Smaller session disks leave no room for ext4's journal and Docker's own folders."""
MIN_RECORDING = MIB
"""Less room for recordings does not hold one of each shell."""
USERINFO = re.compile(r"://[^/\s]*@")
"""A user, with or without a password, in an address (RFC 3986, 3.2.1)."""
DURATION = r"^\s*[0-9]{1,9}[smhd]?\s*$"
"""What `units.parse_duration` takes, for the chart's schema."""


def _size(text: Any) -> str:
    if not isinstance(text, (str, int)) or isinstance(text, bool):
        raise ValueError("not a size (write 4G, 512Mi or a number of bytes)")
    parse_size(text)
    return str(text)


def _duration(text: Any) -> Any:
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError("not a duration (write 90s, 30m, 2h or a number of seconds)")
    parse_duration(text)
    return str(text).strip()


def _whole(value: Any) -> Any:
    """Take "2" for 2: the original chart quoted its numbers."""
    if isinstance(value, bool):
        raise ValueError("not a whole number")
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def _text(value: Any) -> Any:
    """Take 7 for "7": `--set session.id=7` gives a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _session_id(value: str) -> str:
    if not SESSION_ID.match(value):
        raise ValueError("must be a DNS label: 1 to 40 of a-z, 0-9 and -, not first or last a -")
    return value


def _authorized_key(value: str) -> str:
    value = value.strip()
    if "\n" in value or not re.match(r"^(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/]+=*( .*)?$", value):
        raise ValueError("not an OpenSSH public key line (ssh-ed25519 AAAA... comment)")
    return value


def _ipv4(value: str) -> str:
    return str(ipaddress.IPv4Address(value))


def _ipv4_net(value: str) -> str:
    return str(ipaddress.IPv4Network(value))


Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "integer"]})]
Secret = Annotated[SecretStr, BeforeValidator(_text), WithJsonSchema({"type": ["string", "integer"]})]
Size = Annotated[str, BeforeValidator(_size), WithJsonSchema({"type": ["string", "integer"]})]
Duration = Annotated[
    str,
    BeforeValidator(_duration),
    WithJsonSchema({"type": ["string", "integer"], "pattern": DURATION, "minimum": 0, "maximum": 999999999}),
]
Whole = Annotated[int, BeforeValidator(_whole)]
IPv4 = Annotated[str, AfterValidator(_ipv4)]
IPv4Net = Annotated[str, AfterValidator(_ipv4_net)]
Port = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=65535)]


class Group(BaseModel):
    """Names as the chart writes them; unknown ones refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class Session(Group):
    """Who the session is."""

    id: Annotated[Text, AfterValidator(_session_id)] = "example-session-123"
    """Name of the session: a DNS label, since it becomes part of object, host and cookie names."""
    user_id: Text = "user-456"
    """Whose it is; free text, an e-mail address is fine."""


class Rootfs(Group):
    """The base image and the learner's disk over it."""

    image_url: str = ""
    """Base image: http(s)://, oci:// or file:// URL of an ext4 file system, plain or .zst, .gz, .xz. Required."""
    mirrors: list[Annotated[str, Field(pattern=r"^(https?|oci|file)://\S+$")]] = []
    """Further addresses of the same image, tried in turn where `imageUrl` does not give it."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Digest of the *uncompressed* image; also its name in the store. Empty: not checked, remembered by URL."""
    disk_size: Size = "4G"
    """Disk for what the learner changes, Docker images included; the image lies beside. Sparse: costs what is used."""

    @property
    def addresses(self) -> list[str]:
        """Return where the base image can be had, in the order of trying."""
        return [each for each in (self.image_url, *self.mirrors) if each]


class Egress(Group):
    """Where the guest may connect to."""

    allow: list[IPv4Net] = []
    """Networks opened although they are closed by default (private ranges, the uplink's subnet)."""
    deny: list[IPv4Net] = []
    """Networks closed although they are open by default. `0.0.0.0/0` closes all but `allow` and DNS."""


class Network(Group):
    """Addresses inside the session's own network namespace; every session can have the same ones."""

    gateway_ip: IPv4 = "172.16.0.1"
    """Our end of the tap: a /24."""
    vm_ip: IPv4 = "172.16.0.2"
    """The guest's address, in the gateway's /24."""
    tap_device: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,15}$")] = "tap0"
    """Name of the tap device (at most 15 characters: IFNAMSIZ)."""
    dns: list[IPv4] = []
    """Name servers for the guest. Empty: those of the Pod, or of the machine."""
    egress: Egress = Egress()


class Firecracker(Group):
    """Which VMM runs the guest."""

    vmm: Literal["auto", "firecracker", "qemu"] = "auto"
    """`auto`: Firecracker where KVM really works (a probe boot decides), else QEMU."""
    require_kvm: bool = False
    """Fail rather than emulate a processor (10 to 30 times slower) where KVM does not work."""


class Vm(Group):
    """The guest's size."""

    cpu_count: Annotated[Whole, Field(ge=1, le=32)] = 2
    """vCPUs (Firecracker's limit is 32)."""
    memory: Annotated[Whole, Field(ge=128, le=1 << 20)] = 2048
    """MiB. 512 is enough for a shell and small containers; below 256 Debian does not boot well."""
    idle_pause: Duration = "0"
    """Pause the machine when nobody has used it for this long (`90s`, `30m`, `2h`); 0: never."""


class Ssh(Group):
    """Logging in with one's own SSH client."""

    authorized_keys: list[Annotated[str, AfterValidator(_authorized_key)]] = []
    """OpenSSH public keys of the learner, beside the session's own."""


class Recording(Group):
    """What the web terminal's shells print is recorded as asciicast, for the page's own player and for asciinema."""

    enabled: bool = True
    """Record it. The page shows that it does."""
    size_limit: Size = "64Mi"
    """Room for all recordings, a part of vmData; the oldest go first."""
    input: bool = False
    """Record what is typed as well: passwords too."""


class Tls(Group):
    """TLS of the terminal's own, the proxy to web servers in the guest included. Without it, plain HTTP."""

    cert_file: Annotated[str, Field(pattern=r"^(/\S+)?$")] = ""
    """Certificate chain, a PEM file; renewed files are taken up. In a Pod: a path of an `extraVolumeMounts`."""
    key_file: Annotated[str, Field(pattern=r"^(/\S+)?$")] = ""
    """Its key, a PEM file without a passphrase."""

    @property
    def served(self) -> bool:
        """Tell whether the terminal is at https://."""
        return bool(self.cert_file)


class Terminal(Group):
    """The web terminal."""

    enabled: bool = True
    """Run it."""
    base_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    """Path below which it is reached, such as `/lab/terminal`; empty for the root."""
    allowed_origins: list[Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]] = []
    """Origins (scheme://host[:port]) of a proxy in front, such as one that speaks TLS. Empty: only its own."""
    trusted_proxies: list[Annotated[str, Field(pattern=r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$")]] = []
    """Networks of proxies in front, such as `10.0.0.0/8`: who asks is told by their `X-Forwarded-For` and
    `X-Forwarded-Proto`. Empty: those headers say nothing, and all who come by a proxy count as one."""
    recording: Recording = Recording()
    tls: Tls = Tls()

    @property
    def recorded(self) -> bool:
        """Tell whether recordings take room."""
        return self.enabled and self.recording.enabled


class PortProxy(Group):
    """Web servers in the guest, opened out of the terminal (Ports) on an origin of their own."""

    enabled: bool = True
    """Serve them, where the terminal is; port 8082 inside."""
    origin: Annotated[str, Field(pattern=r"^(https?://(\*\.)?[A-Za-z0-9.-]+(:[0-9]+)?)?$")] = ""
    """Where browsers find them: `https://ports.lab.example`, or `https://*.ports.lab.example` for a name for each port.
    Never the terminal's. Empty: the host of its route, else the other one of `localhost` and `127.0.0.1`."""


class CodeServer(Group):
    """VS Code in the browser."""

    enabled: bool = True
    """Run it: 160 MB of memory idle, 800 MB in use."""
    password: Secret = SecretStr("")
    """Password of terminal and editor. One machine: made up when empty. Kubernetes: required."""
    workspace_read_only: bool = False
    """Mount the workspace read-only for the editor (a mount, not a setting)."""


class Publish(Group):
    """One machine only: where the session's ports appear on the host."""

    address: IPv4 = "127.0.0.1"
    """Listen address. Anything else shows the session to the network: put TLS in front."""
    vscode: Port = 0
    """Port of VS Code; 0 takes 8080, or a free one where that is taken."""
    terminal: Port = 0
    """Port of the terminal; 0 takes 8081, or a free one."""
    ssh: Port = 0
    """Port of the guest's SSH; 0 takes 2222, or a free one."""
    ports: Port = 0
    """Port of the proxy to web servers in the guest; 0 takes 8082, or a free one."""


class Volume(Group):
    """One volume."""

    size_limit: Size


class Volumes(Group):
    """Room for each volume."""

    kernels: Volume = Volume(size_limit="2Gi")
    """Base images."""
    vm_data: Volume = Volume(size_limit="5Gi")
    """Session disk, workspace, recordings and checkpoints together."""
    workspace: Volume = Volume(size_limit="512Mi")
    """The workspace's share of vmData; capped, so that a guest cannot fill the disk through it."""
    vscode_data: Volume = Volume(size_limit="1Gi")
    """VS Code's home: settings and extensions."""
    shared_config: Volume = Volume(size_limit="10Mi")
    """Keys and network facts, in memory."""


class Values(Group):
    """A whole session."""

    session: Session = Session()
    rootfs: Rootfs = Rootfs()
    network: Network = Network()
    firecracker: Firecracker = Firecracker()
    vm: Vm = Vm()
    ssh: Ssh = Ssh()
    terminal: Terminal = Terminal()
    ports: PortProxy = PortProxy()
    code_server: CodeServer = CodeServer()
    publish: Publish = Publish()
    volumes: Volumes = Volumes()

    @model_validator(mode="after")
    def _fit_together(self) -> Values:
        faults = list(self._cross_faults())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _cross_faults(self) -> list[str]:
        faults = []
        disk, workspace = parse_size(self.rootfs.disk_size), parse_size(self.volumes.workspace.size_limit)
        room = parse_size(self.volumes.vm_data.size_limit)
        if disk < MIN_DISK:
            faults.append(f"rootfs.diskSize: {self.rootfs.disk_size} is too small; at least {format_size(MIN_DISK)}")
        recording = parse_size(self.terminal.recording.size_limit) if self.terminal.recorded else 0
        if self.terminal.recorded and recording < MIN_RECORDING:
            limit = self.terminal.recording.size_limit
            faults.append(f"terminal.recording.sizeLimit: {limit} is too small; at least {format_size(MIN_RECORDING)}")
        if disk + workspace + recording > room:
            faults.append(
                f"volumes.vmData.sizeLimit: {self.volumes.vm_data.size_limit} cannot hold rootfs.diskSize"
                f" {self.rootfs.disk_size} and volumes.workspace.sizeLimit {self.volumes.workspace.size_limit}"
                + (f" and terminal.recording.sizeLimit {self.terminal.recording.size_limit}" if recording else "")
            )
        net = ipaddress.IPv4Network(f"{self.network.gateway_ip}/24", strict=False)
        if ipaddress.IPv4Address(self.network.vm_ip) not in net or self.network.vm_ip == self.network.gateway_ip:
            faults.append(f"network.vmIp: {self.network.vm_ip} must be another address of {net}")
        if self.ports.origin.lower() in (origin.lower() for origin in self.terminal.allowed_origins):
            faults.append(
                f"ports.origin: {self.ports.origin} is the terminal's;"
                " web servers in the guest need an origin of their own"
            )
        if bool(self.terminal.tls.cert_file) != bool(self.terminal.tls.key_file):
            faults.append("terminal.tls: certFile and keyFile belong together; set both, or none")
        if any(USERINFO.search(address) for address in self.rootfs.addresses):
            faults.append(
                "rootfs.imageUrl: a user or password in an address; put them into a Secret (rootfs.auth), or on one"
                " machine into the file that IMAGE_AUTH_FILE names"
            )
        if self.code_server.password.get_secret_value() == PLACEHOLDER_PASSWORD:
            faults.append("codeServer.password: this is the original chart's placeholder; choose one")
        return faults


def parse(raw: dict[str, Any]) -> Values:
    """Return the checked values. Those of the chart alone are checked too, and then without effect.

    :param raw: nested mapping with the chart's names (camelCase)
    :raises BadUsage: one line per fault, each with its path, unknown names with the nearest known one
    """
    try:
        return Values.model_validate(raw)
    except ValidationError as error:
        if all(item["type"] != "extra_forbidden" for item in error.errors()):
            raise BadUsage("\n".join(faults(error, Values))) from error
    from dozlab.chart_values import ChartValues  # only for a file that names more than a machine's values

    try:
        return ChartValues.model_validate(raw)
    except ValidationError as error:
        raise BadUsage("\n".join(faults(error, ChartValues))) from error


def faults(error: ValidationError, model: type[Values]) -> list[str]:
    """Return one line per fault, each with its path."""
    return [line for item in error.errors() for line in _fault_lines(item, model)]


def _fault_lines(item: Any, root: type[Values]) -> list[str]:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _names_at(root, item["loc"][:-1]), n=1, cutoff=0.6)
        return [f"{path}: unknown value" + (f"; did you mean {near[0]}?" if near else "")]
    message = str(item["msg"]).removeprefix("Value error, ")
    if not path:
        return message.splitlines()
    shown = "" if "password" in path.lower() else f" (got {item['input']!r})"
    return [f"{path}: {message}{shown}"]


def _names_at(root: type[Values], location: tuple[Any, ...]) -> list[str]:
    model: Any = root
    for part in location:
        for name, field in model.model_fields.items():
            if part in (field.alias, name):
                model = field.annotation
    fields = getattr(model, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top, mappings merged, everything else replaced (Helm's rule)."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse_set(expression: str) -> dict[str, Any]:
    """Return the nested mapping for one `--set a.b=value` (true/false/null/whole numbers typed, `{a,b}` a list).

    :raises BadUsage: when it is not of that form
    """
    path, sign, text = expression.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise BadUsage(f"--set {expression}: write it as name.name=value")
    value: Any = _typed(text)
    for key in reversed(keys):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def _typed(text: str) -> Any:
    if text.startswith("{") and text.endswith("}"):
        return [_typed(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    known: dict[str, Any] = {"true": True, "false": False, "null": None}
    if text in known:
        return known[text]
    return int(text) if re.fullmatch(r"-?(0|[1-9]\d*)", text) else text
