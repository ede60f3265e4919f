//! What can be typed, what it means, and the help that says so.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use diskferry::archive::{self, Pick};
use diskferry::digest::Checksum;
use diskferry::{Limits, Options, Stated};
use diskferry_remote::http::{How, MOST_CONNECTIONS, Patience};
use diskferry_remote::oci::{Keys, Platform, Wish};
use diskferry_remote::publisher::From;
use diskferry_remote::sandbox::{Missing, Mode};
use diskferry_remote::{Location, Sandbox};

use crate::access::{AccessArgs, NETWORK};
use crate::copy::CopyArgs;
use crate::exit::Failure;
use crate::later::Later;
use crate::size::Size;
use crate::stock::{DealingArgs, StoreArgs};

/// Carries virtual machine disk images to raw disks, in one pass.
///
/// Reads qcow2, VMDK, VDI, raw and ISO images, plain or wrapped in gzip, xz, zstd or bzip2, from a file, a pipe, a server,
/// or a container image in a registry or a directory.
#[derive(Parser)]
#[command(name = "diskferry", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Write an image's disk to a raw file, a block device or stdout
    ///
    /// A file is written under a temporary name and renamed when it is complete: TARGET is at every moment what it was before or the
    /// whole disk. A file that is there is replaced without asking. A block device gets its first MiB last, and everything that the image leaves
    /// empty is made to read as zero.
    Convert(Later<ConvertArgs>),
    /// Say what an image is, reading no more of it than that needs
    ///
    /// The unpacked size is what a disk made from the image must at least hold. Of some images, such as a raw disk in gzip, only reading
    /// to the end tells it.
    ///
    /// Images that are encrypted, overlays of others or otherwise refused by convert are described all the same, with exit code 0: what stands
    /// in the way is in `refusals` of --json, not in the exit code. Formats that are not carried at all, such as VHD, end with 3.
    Info(Later<InfoArgs>),
    /// Store an image in a container image
    ///
    /// Its bytes are not changed, unless --as says so: a qcow2 in xz stays that. While they pass they are read as an image, and checked as for a conversion, so that
    /// the container image says how large it is, stored and unpacked, and of which format. The same image gives the same digest. The
    /// container image gets its name when all of it is there.
    Push(Later<PushArgs>),
    /// Copy a container image from one registry or layout to another, as it is
    ///
    /// Nothing is unpacked and every digest stays the same, for all platforms of an index and for images without a disk, too. What is there
    /// already is not sent again, and within a registry blobs are mounted. All digests are compared on the way, and the name comes last.
    Copy(Later<CopyArgs>),
    /// Show the images of a registry or a layout, by what their documents say
    ///
    /// Format and sizes are those of labels, or annotations, which somebody has written; no layer is fetched, and nothing is compared with
    /// them. A dash stands for what an image does not have, or what cannot be found out.
    List(Later<ListArgs>),
    /// Check that the images of a store are there and whole
    ///
    /// Reads every manifest, configuration and layer, and compares lengths and digests. What several images share is read once.
    /// The exit code is that of the worst finding: 6 for bytes with a wrong digest or length, 3 for a damaged document, 4 for what is missing.
    Verify(Later<VerifyArgs>),
    /// Find out which images of a store nobody needs any more, and remove them
    Gc {
        #[command(subcommand)]
        command: GcCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell that will read it
        shell: Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Directory that they are written to
        dir: PathBuf,
    },
}

impl Command {
    /// Whether results are for a program.
    pub fn json(&self) -> bool {
        match self {
            Self::Convert(Later(args)) => args.job.json,
            Self::Info(Later(args)) => args.job.json,
            Self::Push(Later(args)) => args.job.json,
            Self::Copy(Later(args)) => args.json,
            Self::List(Later(args)) => args.store.json,
            Self::Verify(Later(args)) => args.store.json,
            Self::Gc { command: GcCommand::Check(args) } => args.store.json,
            Self::Gc { command: GcCommand::Run(args) } => args.store.json,
            Self::Completions { .. } | Self::Man { .. } => false,
        }
    }
}

#[derive(Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct ConvertArgs {
    /// The image: a path, an http:// or https:// URL, s3://bucket/key, docker://HOST/REPOSITORY:TAG, oci:DIR:NAME, or - for stdin
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| Location::parse(&typed))))]
    pub source: Location,

    /// The raw disk: a file (need not exist), a block device, or - for stdout
    pub target: PathBuf,

    #[command(flatten)]
    pub job: JobArgs,

    /// Format of the target: raw is the only one, accepted as in qemu-img
    #[arg(short = 'O', value_name = "FORMAT", value_parser = ["raw"], ignore_case = true, hide_possible_values = true)]
    _output_format: Option<String>,

    /// The same as --progress always, as in qemu-img
    #[arg(short = 'p', conflicts_with = "progress")]
    pub bar: bool,

    /// Digest that the source must have, as in sha256:9f86…; may be repeated
    ///
    /// Of the bytes as they are stored or transferred, before any wrapping is taken off. Algorithms: md5, sha1, sha256, sha512, streebog256,
    /// streebog512. A mismatch publishes nothing.
    #[arg(long, value_name = "ALGO:HEX", value_parser = checksum)]
    pub checksum: Vec<Checksum>,

    /// File of checksums that lists the source, or auto to look for one beside it
    ///
    /// SHA256SUMS, SHA512SUMS, CHECKSUM and the like; best from the publisher and not from the mirror that has the image. The file's
    /// signature is not checked.
    #[arg(long, value_name = "URL|auto")]
    pub checksum_url: Option<From>,

    /// Reserve space for the whole disk first, so that it cannot run out later (files only)
    #[arg(long)]
    pub preallocate: bool,

    /// Write zeroes where the disk is empty, instead of leaving holes (files only)
    #[arg(long)]
    pub no_sparse: bool,

    /// Do not wait until the disk has reached the storage
    ///
    /// Faster; what was written is lost if the machine crashes soon after.
    #[arg(long)]
    pub no_sync: bool,

    #[command(flatten)]
    pub fetch: FetchArgs,

    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Args)]
#[command(after_help = INFO_EXAMPLES)]
pub struct InfoArgs {
    /// The image: a path, an http:// or https:// URL, s3://bucket/key, docker://HOST/REPOSITORY:TAG, oci:DIR:NAME, or - for stdin
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| Location::parse(&typed))))]
    pub source: Location,

    #[command(flatten)]
    pub job: JobArgs,

    /// Read to the end, and check everything that a conversion checks
    #[arg(long)]
    pub full: bool,

    /// With --full: digest that the source must have, as for convert
    #[arg(long, value_name = "ALGO:HEX", requires = "full", value_parser = checksum)]
    pub checksum: Vec<Checksum>,

    /// With --full: file of checksums that lists the source, or auto, as for convert
    #[arg(long, value_name = "URL|auto", requires = "full")]
    pub checksum_url: Option<From>,

    #[command(flatten)]
    pub fetch: FetchArgs,

    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub dealing: DealingArgs,
}

#[derive(Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// Only this image, by the name that list shows, or by its digest [default: all]
    pub image: Option<String>,

    #[command(flatten)]
    pub dealing: DealingArgs,
}

#[derive(Args)]
#[command(after_help = PUSH_EXAMPLES)]
pub struct PushArgs {
    /// The image: a path, an http:// or https:// URL, s3://bucket/key, docker://HOST/REPOSITORY:TAG, oci:DIR:NAME, or - for stdin
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| Location::parse(&typed))))]
    pub source: Location,

    /// The container image: docker://HOST/REPOSITORY:TAG or oci:DIR:NAME
    ///
    /// A directory that is empty or not there becomes an image layout. What has the same name in it is replaced.
    #[arg(value_parser = ValueParser::new(OsStringValueParser::new().try_map(|typed| destination(&typed))))]
    pub target: Location,

    #[command(flatten)]
    pub job: JobArgs,

    /// Store the disk that the image unpacks to instead
    ///
    /// Readers then have nothing to unpack, or zstd only. Where the size of the disk is known only at its end, as of a raw image in
    /// gzip, the disk is spooled. An image whose data are not in the order of its disk is best read from a file.
    #[arg(long = "as", value_name = "FORM", value_enum)]
    pub form: Option<Form>,

    /// The image's name under disk/ in the container image [default: that of the source's file, else disk.img]
    ///
    /// With --as, the file's name without the endings of formats and wrappings, and with .img.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Digest that the source must have, as for convert
    #[arg(long, value_name = "ALGO:HEX", value_parser = checksum)]
    pub checksum: Vec<Checksum>,

    /// File of checksums that lists the source, or auto, as for convert
    #[arg(long, value_name = "URL|auto")]
    pub checksum_url: Option<From>,

    #[command(flatten)]
    pub fetch: FetchArgs,

    #[command(flatten)]
    pub limits: LimitArgs,
}

/// What may be stored other than the image as it is.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Form {
    /// The disk; in a layout its zeros are holes
    Raw,
    /// The disk in a layer in zstd; zeros take no room
    #[value(name = "raw+zstd")]
    RawZstd,
}

impl Form {
    /// The library's word for it.
    pub fn resolve(self) -> diskferry_remote::oci::Form {
        match self {
            Self::Raw => diskferry_remote::oci::Form::Raw,
            Self::RawZstd => diskferry_remote::oci::Form::RawZstd,
        }
    }
}

/// A digest. Who pastes one, or has a command print it, may have blanks around it.
fn checksum(typed: &str) -> Result<Checksum, String> {
    typed.trim().parse()
}

/// A container image.
pub fn image(typed: &OsStr) -> Result<Location, String> {
    match Location::parse(typed)? {
        image @ (Location::Registry(_) | Location::Layout(..)) => Ok(image),
        _ => Err("a container image is named docker://HOST/REPOSITORY:TAG or oci:DIR:NAME".into()),
    }
}

/// A place for a container image.
pub fn destination(typed: &OsStr) -> Result<Location, String> {
    match Location::parse(typed)? {
        target if target.has_digest() => Err("a digest is what comes of it: name a tag".into()),
        target @ (Location::Registry(_) | Location::Layout(..)) => Ok(target),
        _ => Err("a container image goes to docker://HOST/REPOSITORY:TAG or oci:DIR:NAME".into()),
    }
}

#[derive(Subcommand)]
pub enum GcCommand {
    Check(GcCheckArgs),
    Run(GcRunArgs),
}

/// Show which images are not in a list of those that are needed, and what each would free
///
/// Nothing is changed. An image is needed if one of its names or its digest is in the list, if it is one of an index that is needed, or if
/// it belongs to one that is, as a signature does.
#[derive(Args)]
#[command(after_help = GC_EXAMPLES)]
pub struct GcCheckArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub keep: KeepArgs,

    #[command(flatten)]
    pub dealing: DealingArgs,
}

/// Remove the images of a store that are not in a list of those that are needed
///
/// Says what it would remove, and does it only with --yes. Of a layout, images and the blobs that no image names any more are removed. A registry is
/// asked to delete manifests; its own collector removes the blobs. Others may push meanwhile.
#[derive(Args)]
#[command(after_help = GC_RUN_EXAMPLES)]
pub struct GcRunArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub keep: KeepArgs,

    /// Really remove them
    #[arg(long)]
    pub yes: bool,

    /// Keep what is younger than this: 90s, 30m, 1h, 7d
    ///
    /// Of a layout, younger by the time at which its files were written; of a registry, by the time since which the file of --seen knows it.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    pub grace: Duration,

    /// For a registry: file that remembers since when an image has not been needed
    ///
    /// Made if it is not there. A registry does not say when an image was pushed, so that the time counts from when it was first seen
    /// that it is not needed, by a run with this file, also one without --yes.
    #[arg(long, value_name = "FILE")]
    pub seen: Option<PathBuf>,

    #[command(flatten)]
    pub dealing: DealingArgs,
}

/// The list of images that are needed.
#[derive(Args)]
pub struct KeepArgs {
    /// File with the images that are needed, one on a line, or - for stdin
    ///
    /// REPOSITORY:TAG, REPOSITORY@DIGEST or REPOSITORY for all of its tags, with or without the registry in front; for a layout the names in
    /// it; a digest alone for both. Empty lines and those that begin with # do not count.
    #[arg(long = "keep-list", value_name = "FILE|-")]
    pub list: PathBuf,

    /// Accept a list that is empty, or names no image that is there
    #[arg(long = "keep-nothing")]
    pub nothing: bool,
}

/// A time as in 90s, 30m, 1h or 7d.
fn span(typed: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and a unit, as in 90s, 30m, 1h or 7d".to_owned();
    let (number, unit) = typed.split_at_checked(typed.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| digits);
    number.and_then(|number| number.checked_mul(seconds)).map(Duration::from_secs).ok_or_else(wrong)
}

/// What every job on an image takes.
#[derive(Args)]
pub struct JobArgs {
    /// State the source's format: qcow2, vmdk, vdi, raw or iso; wrapped: qcow2.xz
    ///
    /// Wrappings stand behind the format: .gz, .xz, .zst, .bz2. Nothing is guessed from the content then, and only the wrappings
    /// named are taken off. State raw for a disk whose guest is not trusted: it can write its disk to look like another format.
    #[arg(short, long)]
    format: Option<Stated>,

    /// Threads that unpack and write; 0 for one per core, up to 8
    #[arg(short = 'T', long, value_name = "N", default_value_t = Options::default().threads)]
    threads: usize,

    /// Confine the threads that decode the image (Landlock, seccomp)
    ///
    /// Confined, they can open no file, make no connection and start no program, whatever the image does to them.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Sandboxing::Auto)]
    pub sandbox: Sandboxing,

    /// Print the report, or the error, as JSON on stdout
    #[arg(long)]
    pub json: bool,

    /// Only errors on stderr
    ///
    /// No warnings, no summary, and progress only where --progress asks for it.
    #[arg(short, long)]
    pub quiet: bool,

    /// Show progress on stderr
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    pub progress: When,
}

/// When what decodes is confined.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Sandboxing {
    /// As far as the kernel can
    Auto,
    /// By both, else end with an error before anything is read
    Require,
    /// Not at all
    Off,
}

impl Sandboxing {
    /// Makes it ready.
    pub fn resolve(self) -> Result<Sandbox, Missing> {
        Sandbox::new(match self {
            Self::Auto => Mode::Auto,
            Self::Require => Mode::Require,
            Self::Off => Mode::Off,
        })
    }
}

/// When progress is shown, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// A bar, if stderr is a terminal
    Auto,
    /// A bar on a terminal, otherwise a line every ten seconds
    Always,
    /// Nothing
    Never,
    /// A JSON object on a line every second and at the end
    Json,
}

/// How a server is dealt with.
#[derive(Args)]
#[command(next_help_heading = NETWORK)]
pub struct FetchArgs {
    /// Parts of the image that are fetched at the same time
    ///
    /// More than one helps where each connection is slowed down by itself. They are put in order in memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_CONNECTIONS as u64))]
    connections: u64,

    /// Give up a server after this many retries in a row that each bring less than 64 KiB
    #[arg(long, value_name = "N", default_value_t = Patience::default().retries)]
    retries: u32,

    /// How long a server may say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = Patience::default().stall.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stall_timeout: u64,

    /// How long the whole job may take [default: as long as data come]
    ///
    /// It holds for files and pipes, too. What is not complete when the time is over is not published.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: Option<u64>,

    #[command(flatten)]
    pub access: AccessArgs,

    #[command(flatten)]
    pub container: ContainerArgs,
}

/// What is wanted of a container image, and how a registry is dealt with.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Container images")]
pub struct ContainerArgs {
    /// Platform that the image is for [default: linux on this machine's architecture, if there is a choice; for push linux/amd64]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,

    /// The disk image's name in the container image [default: the only file under disk/]
    #[arg(long, value_name = "PATH", value_parser = pick)]
    path: Option<Pick>,

    /// Look for credentials in this file only [default: auth.json of the containers tools, then config.json of Docker]
    ///
    /// Credentials are used only when the registry asks for them; those of --user-file, --token-file and their variables go first.
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// Talk to registries without TLS: anybody on the way can read and replace what is not checked by a digest
    #[arg(long)]
    pub plain_http: bool,
}

/// A file that is named.
fn pick(typed: &str) -> Result<Pick, String> {
    let path = archive::Path::new(typed.as_bytes()).filter(|path| !path.is_root());
    path.map(Pick::Named).ok_or_else(|| "expected the path of a file, from the root and without ..".into())
}

impl ContainerArgs {
    /// Where credentials are looked for.
    pub fn keys(&self) -> Keys {
        self.authfile.as_ref().map_or_else(|| Keys::usual(|name| std::env::var_os(name)), |file| Keys::named(file))
    }

    /// Whether a file in the image was named.
    pub fn names_a_file(&self) -> bool {
        self.path.is_some()
    }

    /// Refuses what was typed for a registry where neither SOURCE nor TARGET is one.
    pub fn refuse_without_registry(&self, source: &Location, target: &Location) -> Result<(), Failure> {
        let has_registry = [source, target].iter().any(|place| matches!(place, Location::Registry(_)));
        if (self.authfile.is_some() || self.plain_http) && !has_registry {
            return Err(Failure::Usage("--authfile and --plain-http are for registries: docker://".into()));
        }
        Ok(())
    }

    /// Whether something was typed that makes sense for container images only.
    pub fn any(&self) -> bool {
        self.platform.is_some() || self.path.is_some() || self.authfile.is_some() || self.plain_http
    }
}

impl FetchArgs {
    /// How long the job may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }

    /// How to fetch an image that `job` is about, of which only the beginning may be wanted.
    pub fn how(&self, job: &JobArgs, look: bool) -> How {
        How { look, format: job.format.clone(), ..self.bare() }
    }

    /// The same for something that is not understood.
    fn bare(&self) -> How {
        let stall = Duration::from_secs(self.stall_timeout);
        let patience = Patience { retries: self.retries, stall, ..Patience::default() };
        let connections = usize::try_from(self.connections).unwrap_or(MOST_CONNECTIONS);
        How { look: false, connections, patience, format: None }
    }

    /// The same for a container image that is copied.
    pub fn wish_to_copy(&self) -> Wish {
        Wish {
            pick: Pick::UnderDisk,
            platform: self.container.platform.clone(),
            limits: Limits::default(),
            threads: Options::default().threads,
            sandbox: Sandbox::default(),
            how: self.bare(),
        }
    }

    /// The same for a disk image in a container image.
    pub fn wish(&self, job: &JobArgs, limits: &LimitArgs, look: bool) -> Wish {
        Wish {
            pick: self.container.path.clone().unwrap_or(Pick::UnderDisk),
            platform: self.container.platform.clone(),
            limits: limits.resolve(),
            threads: job.threads,
            sandbox: Sandbox::default(),
            // What a server puts around a layer is not what was stated about the image in it.
            how: How { format: None, ..self.how(job, look) },
        }
    }
}

/// What an image may ask for.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest disk, as in 10Gi (binary) or 10G (decimal); an unwrapped stream may have twice that and 64 MiB
    #[arg(long, value_name = "SIZE", default_value_t = Size(Limits::default().virtual_size))]
    max_size: Size,

    /// Most memory for mapping tables
    #[arg(long, value_name = "SIZE", default_value_t = Size(Limits::default().table))]
    limit_table: Size,

    /// Largest compressed cluster or grain, unpacked
    #[arg(long, value_name = "SIZE", default_value_t = Size(Limits::default().unit))]
    limit_unit: Size,

    /// Most wrappings around an image
    #[arg(long, value_name = "N", default_value_t = Limits::default().layers)]
    limit_layers: u32,

    /// Most memory for xz dictionaries and zstd windows, of all wrappings together
    #[arg(long, value_name = "SIZE", default_value_t = Size(Limits::default().window))]
    limit_window: Size,

    /// Most memory for data that must wait for their place on the disk; the rest goes to a temporary file
    #[arg(long, value_name = "SIZE", default_value_t = Size(Limits::default().spool_memory))]
    limit_spool_memory: Size,

    /// Most data that may wait, in memory and in the temporary file
    #[arg(long, value_name = "SIZE", default_value_t = Size(Limits::default().spool))]
    spool_limit: Size,

    /// Directory of that temporary file [default: that of a TARGET file, else the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
}

impl JobArgs {
    /// The library's options, with the spool in `spool_dir` unless another directory was asked for.
    pub fn options(self, limits: LimitArgs, checksums: Vec<Checksum>, spool_dir: Option<&Path>) -> Options {
        Options {
            format: self.format,
            limits: limits.resolve(),
            threads: self.threads,
            checksums,
            spool_dir: limits.spool_dir.or_else(|| spool_dir.map(Path::to_owned)).or_else(large_dir),
            ..Options::default()
        }
    }
}

/// Where a spool is at home if nothing better is known: /tmp is memory on many systems, this is not.
fn large_dir() -> Option<PathBuf> {
    Some(PathBuf::from("/var/tmp")).filter(|dir| dir.is_dir())
}

impl LimitArgs {
    fn resolve(&self) -> Limits {
        Limits {
            virtual_size: self.max_size.0,
            table: self.limit_table.0,
            unit: self.limit_unit.0,
            layers: self.limit_layers,
            window: self.limit_window.0,
            spool_memory: self.limit_spool_memory.0,
            spool: self.spool_limit.0,
        }
    }
}

/// The exit codes that all commands have.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  unexpected
  2  wrong usage
  3  image refused or damaged
  4  source could not be read
  5  target too small, full, in use or not writable
  6  checksum mismatch
  129, 130, 143  stopped by SIGHUP, SIGINT, SIGTERM";

const CONVERT_EXAMPLES: &str = "\
Examples:
  diskferry convert debian.qcow2 debian.raw
  curl -fsSL https://example.org/debian.qcow2.xz | diskferry convert - /dev/vg0/debian
  diskferry convert --checksum sha256:9f86d081… appliance.vmdk appliance.raw
  diskferry convert docker://registry.example/images/debian:12 debian.raw
  diskferry convert -f raw disk.img - | ssh host 'cat > /dev/vdb'";

const PUSH_EXAMPLES: &str = "\
Examples:
  diskferry push debian.qcow2 docker://registry.example/images/debian:12
  diskferry push --json https://example.org/debian.qcow2.xz oci:/srv/images:debian-12
  diskferry push --as raw+zstd debian.qcow2 docker://registry.example/disks/debian:12";

const INFO_EXAMPLES: &str = "\
Examples:
  diskferry info debian.qcow2.xz
  diskferry info --json appliance.vmdk | jq '.\"unpacked-size\"'
  diskferry info --full --checksum sha256:9f86d081… disk.raw.gz";

const LIST_EXAMPLES: &str = "\
Examples:
  diskferry list docker://registry.example/images
  diskferry list --json oci:/srv/images | jq '.images[].name'";

const VERIFY_EXAMPLES: &str = "\
Examples:
  diskferry verify oci:/srv/images
  diskferry verify docker://registry.example/images images/debian:12";

const GC_EXAMPLES: &str = "\
Examples:
  diskferry gc check oci:/srv/images --keep-list needed.txt
  list-needed-images | diskferry gc check docker://registry.example --keep-list -";

const GC_RUN_EXAMPLES: &str = "\
Examples:
  diskferry gc run oci:/srv/images --keep-list needed.txt
  diskferry gc run --yes --seen /var/lib/diskferry/seen docker://registry.example --keep-list needed.txt";
