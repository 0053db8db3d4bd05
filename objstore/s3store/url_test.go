package s3store

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		url  string
		want Location
		text string // of the Location; default: the URL
	}{
		{url: "s3://bucket", want: Location{Bucket: "bucket"}},
		{url: "s3://my.bucket-1/a/B_c/d.e", want: Location{Bucket: "my.bucket-1", Prefix: "a/B_c/d.e"}},
		{url: "s3://bucket/", want: Location{Bucket: "bucket"}, text: "s3://bucket"},
		{url: "s3://bucket/p/?", want: Location{Bucket: "bucket", Prefix: "p"}, text: "s3://bucket/p"},
		{
			url:  "s3://bucket/p?region=eu-central-1&endpoint=http://127.0.0.1:9000/",
			want: Location{Bucket: "bucket", Prefix: "p", Region: "eu-central-1", Endpoint: "http://127.0.0.1:9000"},
			text: "s3://bucket/p?endpoint=http://127.0.0.1:9000&region=eu-central-1",
		},
		{
			url:  "s3://bucket?path_style=1&profile=my+one&endpoint=https%3A%2F%2Fs3.example.com%2Fbase",
			want: Location{Bucket: "bucket", PathStyle: &yes, Profile: "my one", Endpoint: "https://s3.example.com/base"},
			text: "s3://bucket?endpoint=https://s3.example.com/base&path_style=true&profile=my+one",
		},
		{url: "s3://bucket?path_style=false", want: Location{Bucket: "bucket", PathStyle: &no}},
		{url: "s3://bucket?endpoint=http://[::1]:9000", want: Location{Bucket: "bucket", Endpoint: "http://[::1]:9000"}, text: "s3://bucket?endpoint=http://%5B::1%5D:9000"},
	} {
		got, err := ParseURL(test.url)
		if err != nil {
			t.Errorf("ParseURL(%q): %v", test.url, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("ParseURL(%q) (-want +got):\n%s", test.url, diff)
		}
		if test.text == "" {
			test.text = test.url
		}
		if got.String() != test.text {
			t.Errorf("ParseURL(%q).String() = %q, want %q", test.url, got, test.text)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"", "s3://"},
		{"bucket/p", "s3://"},
		{"S3://bucket", "s3://"},
		{"s3://", "no bucket"},
		{"s3:///p", "no bucket"},
		{"s3://?region=x", "no bucket"},
		{"s3://b", "3 to 63"},
		{"s3://" + strings.Repeat("b", 64), "3 to 63"},
		{"s3://-bucket", "letter or digit at either end"},
		{"s3://bucket.", "letter or digit at either end"},
		{"s3://buc..ket", "two dots"},
		{"s3://Bucket", "a-z, 0-9"},
		{"s3://bucket:9000/p", "endpoint="},
		{"s3://key:secret@bucket/p", "~/.aws/credentials"},
		{"s3://bucket//p", "empty part"},
		{"s3://bucket/p//q", "empty part"},
		{"s3://bucket/p//", "empty part"},
		{"s3://bucket/../p", "begins with a dot"},
		{"s3://bucket/.p", "begins with a dot"},
		{"s3://bucket/a b", "letters, digits"},
		{"s3://bucket/" + strings.Repeat("p", 257), "longer than 256"},
		{"s3://bucket/p#x", "#"},
		{"s3://bucket?regoin=x", `unknown parameter "regoin"`},
		{"s3://bucket?region=a&region=b", "2 times"},
		{"s3://bucket?region=", "eu-central-1"},
		{"s3://bucket?region=a/b", "eu-central-1"},
		{"s3://bucket?path_style=maybe", "true or false"},
		{"s3://bucket?profile=", "brackets"},
		{"s3://bucket?profile=a%0Ab", "brackets"},
		{"s3://bucket?a;b", "NAME=VALUE"},
		{"s3://bucket?region=%zz", "NAME=VALUE"},
		{"s3://bucket?endpoint=localhost:9000", "http://HOST:PORT"},
		{"s3://bucket?endpoint=ftp://host", "http://HOST:PORT"},
		{"s3://bucket?endpoint=http://", "http://HOST:PORT"},
		{"s3://bucket?endpoint=http://key:secret@host", "~/.aws/credentials"},
		{"s3://bucket?endpoint=http://host?x=y", "more than a host"},
	} {
		_, err := ParseURL(test.url)
		if !errors.Is(err, ErrURL) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("ParseURL(%q): got error %v, want one that says %q", test.url, err, test.want)
			continue
		}
		if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, "secret") {
			t.Errorf("ParseURL(%q): error %q is not one line without secrets", test.url, text)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1&path_style=true&profile=me")
	f.Add("s3://key:secret@bucket/p")
	f.Add("s3://bucket?endpoint=http://[::1%25lo]:9")
	f.Fuzz(func(t *testing.T, url string) {
		loc, err := ParseURL(url)
		if err != nil {
			if !errors.Is(err, ErrURL) || strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("ParseURL(%q): error %q", url, err)
			}
			return
		}
		again, err := ParseURL(loc.String())
		if err != nil {
			t.Fatalf("ParseURL(%q) is %+v, but its text %q is refused: %v", url, loc, loc, err)
		}
		if diff := cmp.Diff(loc, again); diff != "" {
			t.Errorf("ParseURL(%q): its text %q means something else:\n%s", url, loc, diff)
		}
	})
}
