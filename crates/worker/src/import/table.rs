//! The settings of `import`. The names of variables are those that platforms set; ours begin with `DISKFERRY_`.

use crate::settings::{Group, Kind, Setting};

/// A setting that anybody may see.
pub(crate) const fn open(
    name: &'static str,
    variables: &'static [&'static str],
    value: &'static str,
    default: &'static str,
    what: &'static str,
) -> Setting {
    Setting { name, variables, value, default, kind: Kind::Open, what }
}

/// A setting that nobody may see.
pub(crate) const fn secret(name: &'static str, variables: &'static [&'static str], what: &'static str) -> Setting {
    Setting { name, variables, value: "TEXT", default: "", kind: Kind::Secret, what }
}

/// The ways to servers, of whatever is asked.
pub(crate) const HTTP_PROXY: Setting = secret("http-proxy", &["http_proxy", "HTTP_PROXY"], "Proxy for http://");
pub(crate) const HTTPS_PROXY: Setting = secret("https-proxy", &["https_proxy", "HTTPS_PROXY"], "Proxy for https://");
pub(crate) const ALL_PROXY: Setting =
    secret("all-proxy", &["all_proxy", "ALL_PROXY"], "Proxy for what has none of its own");
pub(crate) const NO_PROXY: Setting =
    open("no-proxy", &["no_proxy", "NO_PROXY"], "HOST,…", "", "Hosts that are reached without a proxy");

/// How an end is told and watched, of imports and uploads alike.
pub const TELLING: Group = Group {
    title: "What is told",
    settings: &[
        open("owner-uid", &["OWNER_UID"], "UID", "", "The object that the work is for, as metrics name it"),
        open(
            "termination-log",
            &["DISKFERRY_TERMINATION_LOG"],
            "FILE",
            "/dev/termination-log, where it exists",
            "File for the termination message",
        ),
        open(
            "status-file",
            &["DISKFERRY_STATUS_FILE"],
            "FILE",
            "",
            "File that always has the last status; replaced, never half written",
        ),
        open("events", &["DISKFERRY_EVENTS"], "BOOL", "true", "Write every change as a line of JSON to stdout"),
        open(
            "listen",
            &["DISKFERRY_LISTEN"],
            "ADDRESS|off",
            "[::]:8443, if it is free",
            "Where metrics, status and health are served",
        ),
        open(
            "listen-tls",
            &["DISKFERRY_LISTEN_TLS"],
            "BOOL",
            "true",
            "Serve them with TLS; the certificate is made at start",
        ),
        open(
            "permanent-exit",
            &["DISKFERRY_PERMANENT_EXIT"],
            "code|zero",
            "code",
            "Exit code where trying again cannot help: that of the error's kind, or 0 for a restart policy that looks at nothing else",
        ),
        open(
            "grace",
            &["DISKFERRY_GRACE"],
            "TIME",
            "10s",
            "How long a job may take to stop after SIGTERM, a second at least",
        ),
    ],
};

/// What an image may ask for, and how hard is tried.
pub const WORK: Group = Group {
    title: "The work",
    settings: &[
        open(
            "patience",
            &["DISKFERRY_PATIENCE"],
            "TIME",
            "17m",
            "How long to wait for what may pass, at least, and twice that at most: a network that is gone, a registry that takes nothing, a volume that is full",
        ),
        open("stall-timeout", &["DISKFERRY_STALL_TIMEOUT"], "TIME", "30s", "How long a server may say nothing"),
        open("threads", &["DISKFERRY_THREADS"], "N", "0", "Threads that unpack and write; 0 for one per core, up to 8"),
        open(
            "connections",
            &["DISKFERRY_CONNECTIONS"],
            "N",
            "1",
            "Parts of the image that are fetched at the same time",
        ),
        open(
            "sandbox",
            &["DISKFERRY_SANDBOX"],
            "WHEN",
            "auto",
            "Confine the threads that decode (Landlock, seccomp): as far as the kernel can (`auto`), by both, else end with an error (`require`), or not at all (`off`)",
        ),
        open("max-size", &["DISKFERRY_MAX_SIZE"], "SIZE", "64Ti", "Largest disk"),
        open("limit-table", &["DISKFERRY_LIMIT_TABLE"], "SIZE", "32Mi", "Most memory for mapping tables"),
        open("limit-unit", &["DISKFERRY_LIMIT_UNIT"], "SIZE", "2Mi", "Largest compressed cluster or grain, unpacked"),
        open("limit-layers", &["DISKFERRY_LIMIT_LAYERS"], "N", "2", "Most wrappings around an image"),
        open(
            "limit-window",
            &["DISKFERRY_LIMIT_WINDOW"],
            "SIZE",
            "64Mi",
            "Most memory for xz dictionaries and zstd windows, together; from 128Mi on, blocks of an xz file are unpacked at the same time",
        ),
        open(
            "limit-spool-memory",
            &["DISKFERRY_LIMIT_SPOOL_MEMORY"],
            "SIZE",
            "8Mi",
            "Most memory for data that must wait for their place; the rest goes to a temporary file",
        ),
        open(
            "spool-limit",
            &["DISKFERRY_SPOOL_LIMIT"],
            "SIZE",
            "64Gi",
            "Most data that may wait, in memory and in the temporary file",
        ),
        open(
            "journal-every",
            &["DISKFERRY_JOURNAL_EVERY"],
            "SIZE",
            "256Mi",
            "Write the journal, by which an interrupted import goes on, after each so many bytes of a plain image; 0 for never",
        ),
        open(
            "spool-dir",
            &["DISKFERRY_SPOOL_DIR"],
            "DIR",
            "the directory of a disk.img, else the system's",
            "Directory of the temporary file for data that must wait",
        ),
    ],
};

/// Where the image goes.
pub const DESTINATION: Group = Group {
    title: "Destination",
    settings: &[
        open(
            "destination",
            &["DISKFERRY_DESTINATION"],
            "KIND",
            "registry if there is an endpoint, else block if its device is there, else filesystem",
            "`registry`, `block` or `filesystem`",
        ),
        open(
            "destination-endpoint",
            &["IMPORTER_DESTINATION_ENDPOINT", "UPLOADER_DESTINATION_ENDPOINT"],
            "REFERENCE",
            "",
            "The container image, as in `registry.example/vi/team/debian:uid`",
        ),
        open(
            "destination-path",
            &["DISKFERRY_DESTINATION_PATH", "DESTINATION"],
            "PATH",
            "/dev/cdi-block-volume or /data/disk.img",
            "The block device, or the file for a raw disk",
        ),
        secret(
            "destination-access-key-id",
            &["IMPORTER_DESTINATION_ACCESS_KEY_ID", "UPLOADER_DESTINATION_ACCESS_KEY_ID"],
            "User of the registry",
        ),
        secret(
            "destination-secret-key",
            &["IMPORTER_DESTINATION_SECRET_KEY", "UPLOADER_DESTINATION_SECRET_KEY"],
            "Password of that user",
        ),
        open(
            "destination-auth-config",
            &["IMPORTER_DESTINATION_AUTH_CONFIG", "UPLOADER_DESTINATION_AUTH_CONFIG"],
            "FILE",
            "",
            "Docker's config.json with them",
        ),
        open(
            "destination-cert-dir",
            &["DISKFERRY_DESTINATION_CERT_DIR", "UPLOADER_DESTINATION_CA_BUNDLE"],
            "DIR|FILE",
            "",
            "Certificates that are trusted besides the system's",
        ),
        open(
            "destination-insecure-tls",
            &["DESTINATION_INSECURE_TLS"],
            "BOOL",
            "false",
            "Trust every certificate of the registry, and do without TLS where it has none",
        ),
        open(
            "destination-plain-http",
            &["DISKFERRY_DESTINATION_PLAIN_HTTP"],
            "BOOL",
            "false",
            "Talk to the registry without TLS",
        ),
        open(
            "destination-token-servers",
            &["DISKFERRY_DESTINATION_TOKEN_SERVERS"],
            "HOST,…",
            "",
            "Hosts that may give out the registry's tokens for its credentials, besides its own and those above and below that",
        ),
        open(
            "store-as",
            &["DISKFERRY_STORE_AS"],
            "FORM",
            "stored",
            "What a registry gets: the image as it is (`stored`), its disk (`raw`), or that in zstd (`raw-zstd`)",
        ),
        open("name", &["DISKFERRY_NAME"], "NAME", "disk.img", "The image's name under disk/ in the container image"),
        open(
            "image-size",
            &["IMPORTER_IMAGE_SIZE", "UPLOAD_IMAGE_SIZE"],
            "QUANTITY",
            "the unpacked size",
            "Size of the disk on a volume; one that is smaller than the image's is refused",
        ),
        open(
            "filesystem-overhead",
            &["FILESYSTEM_OVERHEAD"],
            "PART",
            "0.06",
            "Part of a filesystem's free room that a disk may not take",
        ),
        open(
            "preallocation",
            &["PREALLOCATION"],
            "BOOL",
            "false",
            "Reserve room for the whole disk on a filesystem first",
        ),
    ],
};

/// Where the image comes from.
pub const SOURCE: Group = Group {
    title: "Source",
    settings: &[
        open(
            "source",
            &["IMPORTER_SOURCE"],
            "KIND",
            "http",
            "`http`, `registry`, `dvcr` (a container image is copied as it is), `s3`, `blockDevice` or `filesystem`",
        ),
        open(
            "endpoint",
            &["IMPORTER_ENDPOINT"],
            "PLACE",
            "/dev/xvda or /tmp/fs/disk.img",
            "URL or reference of the image; of `blockDevice` and `filesystem` a path",
        ),
        open("content-type", &["IMPORTER_CONTENTTYPE"], "TYPE", "kubevirt", "`kubevirt` is the only one: a disk image"),
        open(
            "pull-method",
            &["IMPORTER_PULL_METHOD"],
            "METHOD",
            "pod",
            "`pod` is the only one: the worker asks the registry itself",
        ),
        open(
            "format",
            &["DISKFERRY_FORMAT"],
            "FORMAT",
            "found out; of a block device raw or iso",
            "What the image is, with its wrappings, as in `qcow2.xz`: nothing is guessed then",
        ),
        secret("access-key-id", &["IMPORTER_ACCESS_KEY_ID"], "User of the server, or key of the store"),
        secret("secret-key", &["IMPORTER_SECRET_KEY"], "Password of that user, or secret of that key"),
        open(
            "auth-config",
            &["IMPORTER_AUTH_CONFIG"],
            "FILE",
            "",
            "Docker's config.json with credentials of the registry",
        ),
        open("cert-dir", &["IMPORTER_CERT_DIR"], "DIR|FILE", "", "Certificates that are trusted besides the system's"),
        open("proxy-cert-dir", &["IMPORTER_PROXY_CERT_DIR"], "DIR|FILE", "", "The same for a proxy"),
        open(
            "insecure-tls",
            &["INSECURE_TLS"],
            "BOOL",
            "false",
            "Trust every certificate of the source, and do without TLS where a registry has none",
        ),
        open("plain-http", &["DISKFERRY_PLAIN_HTTP"], "BOOL", "false", "Talk to the registry without TLS"),
        open(
            "platform",
            &["DISKFERRY_PLATFORM"],
            "OS/ARCH[/VARIANT]",
            "",
            "Platform that a container image has to be for",
        ),
        open(
            "architecture",
            &["IMPORTER_REGISTRY_IMAGE_ARCHITECTURE"],
            "ARCH",
            "",
            "The same for Linux, by the architecture alone",
        ),
        open(
            "checksum",
            &["IMPORTER_CHECKSUM", "IMPORTER_CHECKSUMS"],
            "ALGO:HEX,…",
            "",
            "Digests that the source must have: md5, sha1, sha256, sha512, streebog256, streebog512",
        ),
        secret(
            "headers",
            &["DISKFERRY_HEADERS"],
            "Headers for each request, one on a line. `IMPORTER_EXTRA_HEADER_<n>` has one more",
        ),
        open(
            "extra-headers-dir",
            &["DISKFERRY_EXTRA_HEADERS_DIR"],
            "DIR",
            "/extraheaders, where it exists",
            "Directory of files with such headers",
        ),
        HTTP_PROXY,
        HTTPS_PROXY,
        ALL_PROXY,
        NO_PROXY,
        open("s3-region", &["AWS_REGION"], "REGION", "us-east-1", "Region of a store that speaks S3"),
        open(
            "allow-hosts",
            &["DISKFERRY_ALLOW_HOSTS"],
            "HOST,…",
            "",
            "Make requests for the source to these hosts only",
        ),
        open(
            "deny-private",
            &["DISKFERRY_DENY_PRIVATE"],
            "BOOL",
            "false",
            "Make no request for the source to a private address",
        ),
        open(
            "token-servers",
            &["DISKFERRY_TOKEN_SERVERS"],
            "HOST,…",
            "",
            "Hosts that may give out a registry's tokens for its credentials, besides its own and those above and below that",
        ),
        open("max-redirects", &["DISKFERRY_MAX_REDIRECTS"], "N", "10", "Most redirects that one request follows"),
    ],
};

/// All of them, in the order in which people look for them.
pub const GROUPS: &[Group] = &[SOURCE, DESTINATION, WORK, TELLING];
