// The layout of a saved manifest, as lib/manifest/README.md publishes it. Little-endian.
#ifndef PENSTOCK_MANIFEST_LAYOUT_H_
#define PENSTOCK_MANIFEST_LAYOUT_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace penstock::layout {

static_assert(std::endian::native == std::endian::little, "the columns are used as they lie in the file");

// As PNG's: the first byte is no text, CR LF and LF tell of a transfer in text mode.
inline constexpr unsigned char kMagic[8] = {0x89, 'P', 'S', 'M', '\r', '\n', 0x1A, '\n'};
inline constexpr uint32_t kVersion = 2;
inline constexpr uint64_t kColumnAlignment = 64;
inline constexpr uint32_t kColumnsMax = 4096;
inline constexpr uint64_t kRangeBytesMax = (uint64_t{1} << 48) - 1;  // of an offset and of a length, 6 bytes each in PackedRange

struct Header {
  unsigned char magic[8];
  uint32_t version;
  uint32_t column_count;
  uint64_t file_bytes;
  uint64_t sample_count;
  uint64_t object_count;
  uint64_t range_count;
  uint64_t folder_count;
  uint64_t class_count;
  uint64_t total_bytes;          // sum of delivered bytes
  uint64_t max_stored_bytes;     // of one sample
  uint64_t max_delivered_bytes;  // of one sample
  unsigned char fingerprint[16];
  int64_t scanned_unix_ns;  // when the scan began
  uint64_t flags;           // Flag below
  uint32_t rule;            // Rule below
  uint32_t header_crc;      // CRC-32C of header and column directory with this field 0
};
static_assert(sizeof(Header) == 128);

enum Rule : uint32_t { kRuleOther = 0, kRuleClasses = 1, kRuleFlat = 2, kRuleList = 3 };

// Facts of the whole data set.
enum Flag : uint64_t {
  kFlagShared = 1,  // an object holds ranges of more than one sample
};
inline constexpr uint64_t kFlagsKnown = kFlagShared;

// One entry of the column directory, which follows the header.
struct Column {
  uint32_t tag;    // four ASCII characters
  uint32_t flags;  // kColumnRequired
  uint64_t offset_bytes;
  uint64_t bytes;
  uint32_t crc;  // CRC-32C of the column's bytes
  uint32_t zero;
};
static_assert(sizeof(Column) == 32);

// A reader that does not know a column skips it, unless it has this flag: then the file means something else without it.
inline constexpr uint32_t kColumnRequired = 1;

constexpr uint32_t Tag(const char (&text)[5]) {
  return static_cast<uint32_t>(text[0]) | static_cast<uint32_t>(text[1]) << 8 | static_cast<uint32_t>(text[2]) << 16 |
         static_cast<uint32_t>(text[3]) << 24;
}

inline constexpr uint32_t kNameBases = Tag("NBAS");
inline constexpr uint32_t kNameOffsets = Tag("NOFF");
inline constexpr uint32_t kNames = Tag("NAME");
inline constexpr uint32_t kObjectFolders = Tag("OFOL");
inline constexpr uint32_t kObjectBytes = Tag("OLEN");
inline constexpr uint32_t kObjectPlaces = Tag("OINO");
inline constexpr uint32_t kObjectTimes = Tag("OTIM");
inline constexpr uint32_t kFolderOffsets = Tag("FOFF");
inline constexpr uint32_t kFolderNames = Tag("FNAM");
inline constexpr uint32_t kFolderTimes = Tag("FTIM");
inline constexpr uint32_t kFolderHashes = Tag("FHSH");
inline constexpr uint32_t kIdentity = Tag("IDEN");
inline constexpr uint32_t kLabels = Tag("LABL");
inline constexpr uint32_t kClassOffsets = Tag("COFF");
inline constexpr uint32_t kClassNames = Tag("CNAM");
inline constexpr uint32_t kRanges = Tag("RANG");
inline constexpr uint32_t kRangeBases = Tag("RBAS");
inline constexpr uint32_t kRangeFirst = Tag("RFST");
inline constexpr uint32_t kRangeDelivered = Tag("RDLV");
inline constexpr uint32_t kRangeFields = Tag("RFLD");
inline constexpr uint32_t kRangeCrcs = Tag("RCRC");
inline constexpr uint32_t kRoot = Tag("ROOT");
inline constexpr uint32_t kList = Tag("LIST");
inline constexpr uint32_t kOrderByInode = Tag("PINO");
inline constexpr uint32_t kOrderByExtent = Tag("PEXT");
inline constexpr uint32_t kRecords = Tag("FIXR");
inline constexpr uint32_t kRecordSource = Tag("RECS");
inline constexpr uint32_t kFieldTypes = Tag("FTYP");
inline constexpr uint32_t kIndexOptions = Tag("OPTS");

// 16 bytes, so that a further range of a sample costs no more.
struct PackedRange {
  uint32_t object;
  uint16_t offset_high;
  uint16_t stored_high;
  uint32_t offset_low;
  uint32_t stored_low;
};
static_assert(sizeof(PackedRange) == 16);

// The column LIST: this, then the list file's name.
struct ListFile {
  int64_t mtime_ns;
  uint64_t bytes;
};

// What a file was when it was indexed. The inode tells only where the root has the saved one too.
struct FileIdentity {
  int64_t mtime_ns;
  uint64_t bytes;
  uint64_t inode;  // 0: there was no such file
};

// The column IDEN: which folder the root was, and which files beside the samples the manifest was made from.
struct Identity {
  uint64_t root_device;
  uint64_t root_inode;
  FileIdentity list;
  FileIdentity labels;
};
static_assert(sizeof(Identity) == 64);

// The column FIXR: the bytes of every record, then for each object these two.
struct RecordRun {
  uint64_t first_sample;  // that lies in the object
  uint64_t offset_bytes;  // where it begins
};
static_assert(sizeof(RecordRun) == 16);

enum Format : uint32_t { kFormatFiles = 0, kFormatNpy = 1, kFormatRaw = 2, kFormatNpyFiles = 3 };

// The column RECS: what lies in the files and how it was found, for indexing them again; then the path of the labels.
struct RecordSource {
  uint32_t format;
  uint32_t zero;
  uint64_t record_bytes;  // as asked for; 0: the files say it
  uint64_t header_bytes;
};

}  // namespace penstock::layout

#endif  // PENSTOCK_MANIFEST_LAYOUT_H_
