"""The backbone (Mamba-1, arXiv 2312.00752) and the forecast head, with carried state. Parameter names are those of the
exported file: Hugging Face's Mamba names under `backbone.`, plus `input.*` and `heads.forecast.*`."""
import math

import torch
from torch import nn
from torch.nn import functional as F

import front


def conv_silu(x, taps, bias, T):
    """Causal depthwise convolution of x [S, K − 1 + T, D] with taps [D, K], then SiLU."""
    y = sum(x[:, k:k + T] * taps[:, k] for k in range(taps.shape[1])) + bias
    return F.silu(y).to(x.dtype)


def step_size(dt, bias):
    return F.softplus(dt.float() + bias)


def gate(y, x, z, skip):
    return ((y.float() + skip * x) * F.silu(z.float())).to(z.dtype)


def rms_norm(x, weight, dtype):
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight).to(dtype)


POINTWISE = ("conv_silu", "step_size", "gate", "rms_norm")


def linear(layer, x):
    """The layer's product in x's type, without its bias."""
    return F.linear(x, layer.weight.to(x.dtype))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x, dtype=torch.float32):
        return rms_norm(x, self.weight, dtype)


class Mixer(nn.Module):
    def __init__(self, d_model, d_state, d_conv, expand, n_layer):
        super().__init__()
        D, R = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * D, bias=False)
        self.conv1d = nn.Conv1d(D, D, d_conv, groups=D)
        self.x_proj = nn.Linear(D, R + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(R, D)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(D, 1))
        self.D = nn.Parameter(torch.ones(D))
        self.out_proj = nn.Linear(D, d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -R**-0.5, R**-0.5)
        dt = torch.exp(torch.rand(D) * math.log(100.0) + math.log(1e-3)).clamp(min=1e-4)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            self.out_proj.weight /= math.sqrt(n_layer)

    def forward(self, u, g, state, scan):
        window, h = state
        T = u.shape[1]
        x, z = linear(self.in_proj, u).chunk(2, -1)
        x = torch.cat([window.to(x.dtype), x], 1)
        window = x[:, T:]
        x = conv_silu(x, self.conv1d.weight[:, 0], self.conv1d.bias, T)
        R, N = self.dt_proj.in_features, self.A_log.shape[1]
        dt, b, c = linear(self.x_proj, x).split([R, N, N], -1)
        delta = step_size(linear(self.dt_proj, dt), self.dt_proj.bias)
        y, h = scan(x, delta, b, c, g, -self.A_log.exp(), h)
        y = gate(y, x, z, self.D)
        return linear(self.out_proj, y), (window.detach().float(), h.detach())


class Layer(nn.Module):
    dtype = torch.float32  # of the mixer's products and activations; the residual stream is fp32

    def __init__(self, d_model, **kw):
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.mixer = Mixer(d_model, **kw)

    def forward(self, r, g, state, scan):
        out, state = self.mixer(self.norm(r, self.dtype), g, state, scan)
        return r + out, state


class Backbone(nn.Module):
    def __init__(self, d_model, n_layer, **kw):
        super().__init__()
        self.layers = nn.ModuleList(Layer(d_model, n_layer=n_layer, **kw) for _ in range(n_layer))
        self.norm_f = RMSNorm(d_model)


class SignalModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        backbone, head = cfg["backbone"], cfg["heads"]["forecast"]
        E, self.levels, self.horizon = backbone["d_model"], head["quantiles"], head["horizon"]
        self.input = nn.Linear(front.features(cfg["input"]), E)
        self.backbone = Backbone(**{k: v for k, v in backbone.items() if k != "arch"})
        self.heads = nn.ModuleDict({"forecast": nn.Linear(E, self.horizon * len(self.levels))})
        with torch.no_grad():  # starts as a Gaussian random walk with the stream's own step
            gauss = torch.tensor(self.levels).mul(2).sub(1).erfinv().mul(math.sqrt(2))
            self.heads["forecast"].weight.mul_(0.1)
            self.heads["forecast"].bias.copy_(gauss.asinh().repeat(self.horizon))

    def start_state(self, series):
        """Conv window and SSM state of every layer, all zero."""
        def one(m):
            like = self.input.weight
            D, K = m.conv1d.weight.shape[0], m.conv1d.weight.shape[2]
            return like.new_zeros(series, K - 1, D), like.new_zeros(series, D, m.A_log.shape[1])
        return [one(layer.mixer) for layer in self.backbone.layers]

    def embed(self, features, g, state, scan):
        """features [S, T, F], gap factors g [S, T] → the normed vector [S, T, E] and the state after it."""
        r, after = self.input(features), []
        for layer, s in zip(self.backbone.layers, state):
            r, s = layer(r, g, s, scan)
            after.append(s)
        return self.backbone.norm_f(r), after

    def forecast(self, f):
        """Raw head outputs z [..., H, Q]."""
        return self.heads["forecast"](f).unflatten(-1, (self.horizon, len(self.levels)))
