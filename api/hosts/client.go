package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/bough-db/bough/api"
)

// ErrSilent says that a host did not answer: nothing listens at its address, what
// listens there is not that host, or time was up.
var ErrSilent = errors.New("host does not answer")

const (
	answerBytesMax = 64 << 10
	// AnswerTimeout is how long a Client waits until a host says whether it has a
	// branch.
	AnswerTimeout = 2 * time.Second
	// WorkTimeout is how long it waits for what takes work in the store: a host gives
	// up a little earlier, and says so.
	WorkTimeout = workTimeout + AnswerTimeout
)

// Peer is a host that can be asked.
type Peer struct {
	// Identity is who is to answer; an answer of another process does not count.
	Identity Identity
	// Address is where, HOST:PORT.
	Address string
	// Token is what that host wants to see.
	Token string
}

// Client asks other hosts. Create it with [NewClient].
type Client struct{ http *http.Client }

// NewClient returns a Client.
func NewClient() *Client {
	return &Client{http: &http.Client{
		Transport: &http.Transport{
			Proxy:              nil, // whatever the environment says: hosts are asked directly
			DialContext:        (&net.Dialer{Timeout: AnswerTimeout}).DialContext,
			DisableKeepAlives:  true,
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Use asks what the host does with the branch. That it does not have it is an
// *api.Error with api.CodeNotFound, as with the other questions; that it does not
// answer is ErrSilent.
func (c *Client) Use(ctx context.Context, p Peer, id string) (Use, error) {
	a, err := c.ask(ctx, http.MethodGet, p, id, "")
	if err == nil && a.Use == nil {
		err = fmt.Errorf("ask host %s: %w: the answer is not one", p.Identity.Host, ErrSilent)
	}
	if err != nil {
		return Use{}, err
	}
	return *a.Use, nil
}

// Publish asks the host to bring the branch's last barrier into the store.
func (c *Client) Publish(ctx context.Context, p Peer, id string) (Published, error) {
	a, err := c.ask(ctx, http.MethodPost, p, id, "/publish")
	if err == nil && a.Published == nil {
		err = fmt.Errorf("ask host %s: %w: the answer is not one", p.Identity.Host, ErrSilent)
	}
	if err != nil {
		return Published{}, err
	}
	return *a.Published, nil
}

// Release asks the host to detach the branch; api.CodeInUse is its refusal.
func (c *Client) Release(ctx context.Context, p Peer, id string) error {
	_, err := c.ask(ctx, http.MethodPost, p, id, "/release")
	return err
}

// Recheck asks the host to look whether it still has the branch.
func (c *Client) Recheck(ctx context.Context, p Peer, id string) error {
	_, err := c.ask(ctx, http.MethodPost, p, id, "/recheck")
	return err
}

func (c *Client) ask(caller context.Context, method string, p Peer, id, verb string) (Answer, error) {
	limit := AnswerTimeout
	if verb != "" {
		limit = WorkTimeout
	}
	ctx, cancel := context.WithTimeout(caller, limit)
	defer cancel()
	u := url.URL{Scheme: "http", Host: p.Address, Path: pathPrefix + id + verb}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return Answer{}, fmt.Errorf("ask host %s at %q: %w: %w", p.Identity.Host, p.Address, ErrSilent, err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	silent := func(why error) error {
		if ue, ok := errors.AsType[*url.Error](why); ok {
			why = ue.Err
		}
		return fmt.Errorf("ask host %s at %s: %w: %w", p.Identity.Host, p.Address, ErrSilent, why)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if caller.Err() != nil {
			return Answer{}, fmt.Errorf("ask host %s: %w", p.Identity.Host, caller.Err())
		}
		return Answer{}, silent(err)
	}
	defer resp.Body.Close()
	var a struct {
		Answer
		Error *api.Error `json:"error"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, answerBytesMax)).Decode(&a)
	switch {
	case err != nil:
		return Answer{}, silent(fmt.Errorf("what listens there says %s and no answer: %w", resp.Status, err))
	case a.Identity != p.Identity:
		return Answer{}, silent(errors.New("another process listens there"))
	case a.Error != nil:
		return Answer{}, fmt.Errorf("ask host %s: %w", p.Identity.Host, a.Error)
	case resp.StatusCode != http.StatusOK:
		return Answer{}, silent(errors.New(resp.Status))
	}
	return a.Answer, nil
}
