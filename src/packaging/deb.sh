#!/bin/sh
# Builds the Debian package from a release build, or from the program given as $1, and prints its path.
# Needs dpkg-dev (and lintian, if it is to be checked). The same input gives the same bytes: times are
# SOURCE_DATE_EPOCH's, or those of the last commit.
set -eu
umask 022
cd "$(dirname "$0")/../.."

program=${1:-}
if [ -z "$program" ]; then
	cargo build --release --quiet
	program=${CARGO_TARGET_DIR:-target}/release/bellhop
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
data=src/packaging
put() { install -D -m "$1" "$2" "$root/$3"; }
squeeze() { gzip -9n "$root/$1"; }

put 755 "$program" usr/bin/bellhop
for page in bellhop.1 bellhop.json.5 bellhop-protocols.7; do
	put 644 "man/$page" "usr/share/man/man${page##*.}/$page"
	squeeze "usr/share/man/man${page##*.}/$page"
done
for shell in bash zsh fish; do "$program" completions $shell >"$work/$shell"; done
put 644 "$work/bash" usr/share/bash-completion/completions/bellhop
put 644 "$work/zsh" usr/share/zsh/vendor-completions/_bellhop
put 644 "$work/fish" usr/share/fish/vendor_completions.d/bellhop.fish
for unit in system user; do
	from=bellhop.service
	[ $unit = system ] || from=bellhop.user.service
	sed 's,@PROGRAM@,/usr/bin/bellhop,' "$data/$from" >"$work/$unit"
	put 644 "$work/$unit" "usr/lib/systemd/$unit/bellhop.service"
done
put 644 $data/bellhop.sysusers usr/lib/sysusers.d/bellhop.conf
put 644 $data/bellhop.tmpfiles usr/lib/tmpfiles.d/bellhop.conf
put 644 $data/bellhop.default etc/default/bellhop
put 644 README.md usr/share/doc/bellhop/README.md
squeeze usr/share/doc/bellhop/README.md
put 644 $data/debian/copyright usr/share/doc/bellhop/copyright
sed "s/@VERSION@/$version/; s/@DATE@/$(LC_ALL=C date -uRd "@$SOURCE_DATE_EPOCH")/" $data/debian/changelog >"$work/changelog"
put 644 "$work/changelog" usr/share/doc/bellhop/changelog
squeeze usr/share/doc/bellhop/changelog
put 644 $data/debian/lintian-overrides usr/share/lintian/overrides/bellhop

mkdir -p "$root/DEBIAN" "$work/debian"
for script in postinst prerm postrm; do install -m 755 "$data/debian/$script" "$root/DEBIAN/$script"; done
echo /etc/default/bellhop >"$root/DEBIAN/conffiles"
: >"$work/debian/control"
# A static program needs no libraries.
shlibs=$(cd "$work" && dpkg-shlibdeps -O "$root/usr/bin/bellhop" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
size=$(du -sk --apparent-size "$root" | cut -f 1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/; s/@SHLIBS@, /${shlibs:+$shlibs, }/" \
	$data/debian/control >"$root/DEBIAN/control"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum >DEBIAN/md5sums)
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/conffiles" "$root/DEBIAN/md5sums"

out=${CARGO_TARGET_DIR:-target}/bellhop_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
echo "$out"
