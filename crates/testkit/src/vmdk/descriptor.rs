//! The text in front: what it says, and the many ways of saying it.

/// A descriptor to be written.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// `createType`.
    pub create_type: String,
    /// `CID`.
    pub cid: String,
    /// `parentCID`; `ffffffff` for none.
    pub parent_cid: String,
    /// Extent lines, whole.
    pub extents: Vec<String>,
    /// Lines of the disk data base and whatever else: key and value, which is quoted.
    pub entries: Vec<(String, String)>,
    /// How it is spelt.
    pub spelling: Spelling,
}

/// How producers and hand editors spell the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// As VMware does.
    Plain,
    /// Keys in lower case.
    LowerKeys,
    /// Keys in upper case.
    UpperKeys,
    /// Spaces around the equals sign and at the ends of lines.
    Spaced,
    /// Lines end as in DOS.
    Crlf,
}

impl Descriptor {
    /// The descriptor of a one-file image of `sectors` whose extent is called `name`.
    pub fn new(create_type: &str, sectors: u64, name: &str) -> Self {
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Self {
            create_type: create_type.to_owned(),
            cid: "5a1d0c3e".to_owned(),
            parent_cid: "ffffffff".to_owned(),
            extents: vec![format!("RW {sectors} SPARSE \"{name}\"")],
            entries: vec![
                entry("ddb.virtualHWVersion", "4"),
                entry("ddb.geometry.cylinders", &(sectors / (16 * 63)).to_string()),
                entry("ddb.geometry.heads", "16"),
                entry("ddb.geometry.sectors", "63"),
                entry("ddb.adapterType", "ide"),
            ],
            spelling: Spelling::Plain,
        }
    }

    /// Adds a line of the disk data base.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.entries.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The text.
    pub fn text(&self) -> String {
        let head = [
            "# Disk DescriptorFile".to_owned(),
            self.entry("version", "1"),
            self.entry("CID", &self.cid),
            self.entry("parentCID", &self.parent_cid),
            self.entry("createType", &quoted(&self.create_type)),
            String::new(),
            "# Extent description".to_owned(),
        ];
        let middle = [String::new(), "# The Disk Data Base".to_owned(), "#DDB".to_owned(), String::new()];
        let entries = self.entries.iter().map(|(key, value)| self.entry(key, &quoted(value)));
        let end = match self.spelling {
            Spelling::Crlf => "\r\n",
            Spelling::Spaced => " \t\n",
            _ => "\n",
        };
        let lines = head.into_iter().chain(self.extents.iter().cloned()).chain(middle).chain(entries);
        lines.map(|line| line + end).collect()
    }

    fn entry(&self, key: &str, value: &str) -> String {
        match self.spelling {
            Spelling::Plain | Spelling::Crlf => format!("{key}={value}"),
            Spelling::LowerKeys => format!("{}={value}", key.to_lowercase()),
            Spelling::UpperKeys => format!("{}={value}", key.to_uppercase()),
            Spelling::Spaced => format!("{key} = {value}"),
        }
    }
}

fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}
