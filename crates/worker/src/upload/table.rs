//! The settings of `upload`. Where the image goes, and how an end is told, is as for `import`.

use crate::import::table::{ALL_PROXY, DESTINATION, HTTP_PROXY, HTTPS_PROXY, NO_PROXY, TELLING, WORK, open, secret};
use crate::settings::Group;

/// The server that takes the image.
const DOOR: Group = Group {
    title: "Taking the image",
    settings: &[
        open("listen-address", &["LISTEN_ADDRESS"], "ADDRESS", "[::], or 0.0.0.0", "Address on which images are taken"),
        open("listen-port", &["LISTEN_PORT"], "PORT", "8444", "Port on which images are taken"),
        open(
            "healthz-port",
            &["HEALTHZ_PORT"],
            "PORT",
            "8080",
            "Port for health, status and metrics without TLS; 0 for none",
        ),
        open(
            "tls-cert-file",
            &["TLS_CERT_FILE"],
            "FILE",
            "",
            "Certificate of the server, and what it is signed by, as PEM",
        ),
        open("tls-key-file", &["TLS_KEY_FILE"], "FILE", "", "Its key, as PEM"),
        open(
            "client-ca-file",
            &["CLIENT_CA_FILE", "CLIENT_CERT_FILE"],
            "FILE",
            "",
            "Let in only clients with a certificate of these authorities, as PEM",
        ),
        open(
            "client-name",
            &["CLIENT_NAME"],
            "NAME",
            "",
            "And only if the certificate has this name, as common name or as DNS name",
        ),
        secret(
            "token",
            &["DISKFERRY_UPLOAD_TOKEN"],
            "Secret end of the path, /upload/TOKEN: at least 32 random characters; without it the path is /upload",
        ),
        open(
            "open-path",
            &["DISKFERRY_OPEN_PATH"],
            "BOOL",
            "false",
            "Take images on /upload too, although there is a token: for an ingress that checks it",
        ),
        open(
            "first-byte-timeout",
            &["DISKFERRY_FIRST_BYTE_TIMEOUT"],
            "TIME",
            "10m",
            "How long to wait for somebody to begin",
        ),
        open(
            "upload-stall-timeout",
            &["DISKFERRY_UPLOAD_STALL_TIMEOUT"],
            "TIME",
            "60s",
            "How long a sender may send nothing",
        ),
        open(
            "resume-timeout",
            &["DISKFERRY_RESUME_TIMEOUT"],
            "TIME",
            "10m",
            "How long to wait for the rest of an upload that broke off",
        ),
        open(
            "deadline",
            &["DEADLINE", "DISKFERRY_DEADLINE"],
            "TIME",
            "",
            "When the whole image must be carried: as 2026-11-24T12:00:00Z, or as 2h from the start",
        ),
        open(
            "linger",
            &["DISKFERRY_LINGER"],
            "TIME",
            "3s",
            "How long the server still answers after the end, so that all clients hear of it",
        ),
    ],
};

/// What is said of the image before it comes.
const IMAGE: Group = Group {
    title: "The image",
    settings: &[
        open(
            "format",
            &["DISKFERRY_FORMAT"],
            "FORMAT",
            "found out",
            "What the image is, with its wrappings, as in `qcow2.xz`: nothing is guessed then",
        ),
        open(
            "checksum",
            &["UPLOADER_CHECKSUMS"],
            "ALGO:HEX,…",
            "",
            "Digests that the image must have: md5, sha1, sha256, sha512, streebog256, streebog512",
        ),
        HTTP_PROXY,
        HTTPS_PROXY,
        ALL_PROXY,
        NO_PROXY,
    ],
};

/// All of them, in the order in which people look for them.
pub const GROUPS: &[Group] = &[DOOR, IMAGE, DESTINATION, WORK, TELLING];
