; startup.c as LLVM IR, made by clang 14: python -m jit.startup.generate
source_filename = "startup.c"
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-f80:128-n8:16:32:64-S128"
target triple = "x86_64-unknown-linux-gnu"

module asm ".text"
module asm ".globl program_start"
module asm "program_start:"
module asm "  endbr64"
module asm "  pushfq"
module asm "  pushq %rdi"
module asm "  leaq 16(%rsp), %rdi"
module asm "  jmp .Lsave"
module asm ".globl library_start"
module asm "library_start:"
module asm "  endbr64"
module asm "  pushfq"
module asm "  pushq %rdi"
module asm "  xorl %edi, %edi"
module asm ".Lsave:"
module asm "  pushq %rax"
module asm "  pushq %rbx"
module asm "  pushq %rcx"
module asm "  pushq %rdx"
module asm "  pushq %rsi"
module asm "  pushq %rbp"
module asm "  pushq %r8"
module asm "  pushq %r9"
module asm "  pushq %r10"
module asm "  pushq %r11"
module asm "  pushq %r12"
module asm "  pushq %r13"
module asm "  pushq %r14"
module asm "  pushq %r15"
module asm "  cld"
module asm "  movq %rsp, %rbp"
module asm "  andq $-16, %rsp"
module asm "  call probeloom_startup"
module asm "  movq %rbp, %rsp"
module asm "  popq %r15"
module asm "  popq %r14"
module asm "  popq %r13"
module asm "  popq %r12"
module asm "  popq %r11"
module asm "  popq %r10"
module asm "  popq %r9"
module asm "  popq %r8"
module asm "  popq %rbp"
module asm "  popq %rsi"
module asm "  popq %rdx"
module asm "  popq %rcx"
module asm "  popq %rbx"
module asm "  popq %rax"
module asm "  popq %rdi"
module asm "  popfq"
module asm "  jmp original_entry"
module asm ".globl no_original_entry"
module asm "no_original_entry:"
module asm "  ret"

%struct.header = type { i64, i32, i32, [4 x i64], [2 x i64], i64, i64, i64, i64, i64, i64, [256 x i8] }
%struct.text = type { i8*, i64, i32 }
%struct.scratch = type { [4352 x i8], [4352 x i8], [4352 x i8], [4096 x i8], [65536 x i8] }
%struct.stat = type { i64, i64, i64, i32, i32, i32, i32, i64, i64, [11 x i64] }

@probeloom_data = external hidden global %struct.header, align 8
@.str = private unnamed_addr constant [16 x i8] c"PROBELOOM_DATA=\00", align 1
@.str.1 = private unnamed_addr constant [19 x i8] c"/proc/self/environ\00", align 1
@.str.2 = private unnamed_addr constant [16 x i8] c"/proc/self/auxv\00", align 1
@__const.open_data.millisecond = private unnamed_addr constant [2 x i64] [i64 0, i64 1000000], align 16
@.str.3 = private unnamed_addr constant [12 x i8] c".probeloom-\00", align 1

; Function Attrs: noredzone nounwind optsize
define hidden void @probeloom_startup(i64* noundef readonly %0) local_unnamed_addr #0 {
  %2 = alloca %struct.text, align 8
  %3 = alloca i32, align 4
  %4 = icmp eq i64* %0, null
  br i1 %4, label %53, label %5

5:                                                ; preds = %1
  %6 = getelementptr inbounds i64, i64* %0, i64 1
  %7 = load i64, i64* %0, align 8
  %8 = getelementptr inbounds i64, i64* %6, i64 %7
  %9 = getelementptr inbounds i64, i64* %8, i64 1
  %10 = load i64, i64* %9, align 8
  %11 = icmp eq i64 %10, 0
  br i1 %11, label %297, label %12

12:                                               ; preds = %5, %35
  %13 = phi i64 [ %36, %35 ], [ %10, %5 ]
  %14 = phi i64* [ %37, %35 ], [ %9, %5 ]
  %15 = phi i8* [ %38, %35 ], [ null, %5 ]
  %16 = icmp eq i8* %15, null
  br i1 %16, label %17, label %30

17:                                               ; preds = %12
  %18 = inttoptr i64 %13 to i8*
  %19 = getelementptr i8, i8* %18, i64 15
  br label %20

20:                                               ; preds = %24, %17
  %21 = phi i8* [ %18, %17 ], [ %27, %24 ]
  %22 = phi i8* [ getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), %17 ], [ %26, %24 ]
  %23 = icmp eq i8* %22, getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 15)
  br i1 %23, label %30, label %24

24:                                               ; preds = %20
  %25 = load i8, i8* %22, align 1
  %26 = getelementptr inbounds i8, i8* %22, i64 1
  %27 = getelementptr inbounds i8, i8* %21, i64 1
  %28 = load i8, i8* %21, align 1
  %29 = icmp eq i8 %25, %28
  br i1 %29, label %20, label %39, !llvm.loop !3

30:                                               ; preds = %20, %12
  %31 = phi i8* [ %15, %12 ], [ %19, %20 ]
  %32 = getelementptr inbounds i64, i64* %14, i64 1
  %33 = load i64, i64* %32, align 8
  %34 = icmp eq i64 %33, 0
  br i1 %34, label %43, label %35

35:                                               ; preds = %30, %39
  %36 = phi i64 [ %33, %30 ], [ %41, %39 ]
  %37 = phi i64* [ %32, %30 ], [ %40, %39 ]
  %38 = phi i8* [ %31, %30 ], [ null, %39 ]
  br label %12, !llvm.loop !5

39:                                               ; preds = %24
  %40 = getelementptr inbounds i64, i64* %14, i64 1
  %41 = load i64, i64* %40, align 8
  %42 = icmp eq i64 %41, 0
  br i1 %42, label %297, label %35

43:                                               ; preds = %30
  %44 = icmp eq i8* %31, null
  br i1 %44, label %297, label %45

45:                                               ; preds = %43, %45
  %46 = phi i64* [ %47, %45 ], [ %14, %43 ]
  %47 = getelementptr inbounds i64, i64* %46, i64 2
  %48 = load i64, i64* %47, align 8
  switch i64 %48, label %45 [
    i64 0, label %297
    i64 23, label %49
  ], !llvm.loop !6

49:                                               ; preds = %45
  %50 = getelementptr inbounds i64, i64* %46, i64 3
  %51 = load i64, i64* %50, align 8
  %52 = icmp eq i64 %51, 0
  br i1 %52, label %53, label %297

53:                                               ; preds = %49, %1
  %54 = phi i8* [ null, %1 ], [ %31, %49 ]
  %55 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 0, i64 82688, i64 3, i64 34, i64 -1, i64 0) #4
  %56 = icmp ult i64 %55, -4095
  %57 = inttoptr i64 %55 to i8*
  %58 = select i1 %56, i8* %57, i8* null
  %59 = bitcast i8* %58 to %struct.scratch*
  %60 = icmp eq i8* %58, null
  br i1 %60, label %297, label %61

61:                                               ; preds = %53
  br i1 %4, label %62, label %142

62:                                               ; preds = %61, %62
  %63 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 ptrtoint ([19 x i8]* @.str.1 to i64), i64 526592, i64 0, i64 0, i64 0, i64 0) #4
  %64 = icmp eq i64 %63, -4
  br i1 %64, label %62, label %65, !llvm.loop !8

65:                                               ; preds = %62
  %66 = icmp ult i64 %63, -4095
  br i1 %66, label %67, label %294

67:                                               ; preds = %65
  %68 = getelementptr inbounds i8, i8* %58, i64 13056
  %69 = ptrtoint i8* %68 to i64
  br label %70

70:                                               ; preds = %106, %67
  %71 = phi i8* [ getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), %67 ], [ %109, %106 ]
  %72 = phi i32 [ 0, %67 ], [ %108, %106 ]
  %73 = phi i64 [ 0, %67 ], [ %107, %106 ]
  br label %74

74:                                               ; preds = %74, %70
  %75 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 0, i64 %63, i64 %69, i64 4096, i64 0, i64 0, i64 0) #4
  %76 = icmp eq i64 %75, -4
  br i1 %76, label %74, label %77, !llvm.loop !9

77:                                               ; preds = %74
  %78 = icmp sgt i64 %75, 0
  br i1 %78, label %79, label %112

79:                                               ; preds = %77, %106
  %80 = phi i64 [ %110, %106 ], [ 0, %77 ]
  %81 = phi i8* [ %109, %106 ], [ %71, %77 ]
  %82 = phi i32 [ %108, %106 ], [ %72, %77 ]
  %83 = phi i64 [ %107, %106 ], [ %73, %77 ]
  %84 = getelementptr inbounds %struct.scratch, %struct.scratch* %59, i64 0, i32 3, i64 %80
  %85 = load i8, i8* %84, align 1
  %86 = icmp eq i8* %81, null
  br i1 %86, label %87, label %90

87:                                               ; preds = %79
  %88 = icmp eq i8 %85, 0
  %89 = select i1 %88, i8* getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), i8* null
  br label %106

90:                                               ; preds = %79
  %91 = load i8, i8* %81, align 1
  %92 = icmp eq i8 %91, 0
  %93 = icmp eq i8 %85, 0
  br i1 %92, label %94, label %101

94:                                               ; preds = %90
  br i1 %93, label %112, label %95

95:                                               ; preds = %94
  %96 = add i64 %83, 1
  %97 = icmp ugt i64 %96, 4351
  br i1 %97, label %106, label %98

98:                                               ; preds = %95
  %99 = getelementptr inbounds %struct.scratch, %struct.scratch* %59, i64 0, i32 0, i64 %83
  store i8 %85, i8* %99, align 1
  %100 = getelementptr inbounds %struct.scratch, %struct.scratch* %59, i64 0, i32 0, i64 %96
  store i8 0, i8* %100, align 1
  br label %106

101:                                              ; preds = %90
  br i1 %93, label %106, label %102

102:                                              ; preds = %101
  %103 = icmp eq i8 %91, %85
  %104 = getelementptr inbounds i8, i8* %81, i64 1
  %105 = select i1 %103, i8* %104, i8* null
  br label %106

106:                                              ; preds = %102, %101, %98, %95, %87
  %107 = phi i64 [ %83, %101 ], [ %83, %102 ], [ %96, %98 ], [ %83, %95 ], [ %83, %87 ]
  %108 = phi i32 [ %82, %101 ], [ %82, %102 ], [ %82, %98 ], [ 1, %95 ], [ %82, %87 ]
  %109 = phi i8* [ getelementptr inbounds ([16 x i8], [16 x i8]* @.str, i64 0, i64 0), %101 ], [ %105, %102 ], [ %81, %98 ], [ %81, %95 ], [ %89, %87 ]
  %110 = add nuw nsw i64 %80, 1
  %111 = icmp eq i64 %110, %75
  br i1 %111, label %70, label %79, !llvm.loop !10

112:                                              ; preds = %77, %94
  %113 = phi i32 [ %82, %94 ], [ %72, %77 ]
  %114 = xor i1 %78, true
  %115 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %63, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  %116 = icmp ne i32 %113, 0
  %117 = select i1 %114, i1 true, i1 %116
  br i1 %117, label %294, label %118

118:                                              ; preds = %112, %118
  %119 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 ptrtoint ([16 x i8]* @.str.2 to i64), i64 526592, i64 0, i64 0, i64 0, i64 0) #4
  %120 = icmp eq i64 %119, -4
  br i1 %120, label %118, label %121, !llvm.loop !8

121:                                              ; preds = %118
  %122 = icmp ult i64 %119, -4095
  br i1 %122, label %123, label %294

123:                                              ; preds = %121, %123
  %124 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 0, i64 %119, i64 %69, i64 4096, i64 0, i64 0, i64 0) #4
  %125 = icmp eq i64 %124, -4
  br i1 %125, label %123, label %126, !llvm.loop !9

126:                                              ; preds = %123
  %127 = bitcast i8* %68 to i64*
  %128 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %119, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %129

129:                                              ; preds = %134, %126
  %130 = phi i64 [ 0, %126 ], [ %131, %134 ]
  %131 = add nuw nsw i64 %130, 2
  %132 = shl nsw i64 %131, 3
  %133 = icmp sgt i64 %132, %124
  br i1 %133, label %294, label %134

134:                                              ; preds = %129
  %135 = getelementptr inbounds i64, i64* %127, i64 %130
  %136 = load i64, i64* %135, align 8
  switch i64 %136, label %129 [
    i64 0, label %294
    i64 23, label %137
  ], !llvm.loop !11

137:                                              ; preds = %134
  %138 = or i64 %130, 1
  %139 = getelementptr inbounds i64, i64* %127, i64 %138
  %140 = load i64, i64* %139, align 8
  %141 = icmp eq i64 %140, 0
  br i1 %141, label %144, label %294

142:                                              ; preds = %61
  %143 = icmp eq i8* %54, null
  br i1 %143, label %294, label %144

144:                                              ; preds = %137, %142
  %145 = phi i8* [ %54, %142 ], [ %57, %137 ]
  %146 = load i8, i8* %145, align 1
  %147 = icmp eq i8 %146, 0
  br i1 %147, label %294, label %148

148:                                              ; preds = %144
  %149 = bitcast %struct.text* %2 to i8*
  call void @llvm.lifetime.start.p0i8(i64 24, i8* nonnull %149) #4
  %150 = getelementptr inbounds %struct.text, %struct.text* %2, i64 0, i32 0
  %151 = getelementptr inbounds i8, i8* %58, i64 4352
  store i8* %151, i8** %150, align 8
  %152 = getelementptr inbounds %struct.text, %struct.text* %2, i64 0, i32 1
  store i64 0, i64* %152, align 8
  %153 = getelementptr inbounds %struct.text, %struct.text* %2, i64 0, i32 2
  store i32 0, i32* %153, align 8
  %154 = bitcast i32* %3 to i8*
  call void @llvm.lifetime.start.p0i8(i64 4, i8* nonnull %154) #4
  store i32 3, i32* %3, align 4
  br label %155

155:                                              ; preds = %204, %148
  %156 = phi i8* [ %145, %148 ], [ %206, %204 ]
  %157 = load i8, i8* %156, align 1
  switch i8 %157, label %186 [
    i8 0, label %207
    i8 37, label %158
  ]

158:                                              ; preds = %155
  %159 = getelementptr inbounds i8, i8* %156, i64 1
  %160 = load i8, i8* %159, align 1
  switch i8 %160, label %186 [
    i8 112, label %161
    i8 109, label %163
  ]

161:                                              ; preds = %158
  %162 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 39, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  call fastcc void @put_number(%struct.text* noundef nonnull %2, i64 noundef %162) #5
  br label %204

163:                                              ; preds = %158
  %164 = load i8, i8* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11, i64 0), align 8
  %165 = icmp eq i8 %164, 0
  br i1 %165, label %204, label %166

166:                                              ; preds = %163
  %167 = load i64, i64* %152, align 8
  %168 = load i32, i32* %153, align 8
  %169 = load i8*, i8** %150, align 8
  br label %170

170:                                              ; preds = %166, %181
  %171 = phi i32 [ %182, %181 ], [ %168, %166 ]
  %172 = phi i64 [ %183, %181 ], [ %167, %166 ]
  %173 = phi i8 [ %184, %181 ], [ %164, %166 ]
  %174 = phi i8* [ %175, %181 ], [ getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11, i64 0), %166 ]
  %175 = getelementptr inbounds i8, i8* %174, i64 1
  %176 = add i64 %172, 1
  %177 = icmp ugt i64 %176, 4351
  br i1 %177, label %181, label %178

178:                                              ; preds = %170
  %179 = getelementptr inbounds i8, i8* %169, i64 %172
  store i8 %173, i8* %179, align 1
  %180 = getelementptr inbounds i8, i8* %169, i64 %176
  store i8 0, i8* %180, align 1
  br label %181

181:                                              ; preds = %170, %178
  %182 = phi i32 [ %171, %178 ], [ 1, %170 ]
  %183 = phi i64 [ %176, %178 ], [ %172, %170 ]
  %184 = load i8, i8* %175, align 1
  %185 = icmp eq i8 %184, 0
  br i1 %185, label %203, label %170, !llvm.loop !12

186:                                              ; preds = %158, %155
  %187 = load i64, i64* %152, align 8
  %188 = add i64 %187, 1
  %189 = icmp ugt i64 %188, 4351
  br i1 %189, label %190, label %191

190:                                              ; preds = %186
  store i32 1, i32* %153, align 8
  br label %195

191:                                              ; preds = %186
  %192 = load i8*, i8** %150, align 8
  store i64 %188, i64* %152, align 8
  %193 = getelementptr inbounds i8, i8* %192, i64 %187
  store i8 %157, i8* %193, align 1
  %194 = getelementptr inbounds i8, i8* %192, i64 %188
  store i8 0, i8* %194, align 1
  br label %195

195:                                              ; preds = %191, %190
  %196 = load i8, i8* %156, align 1
  %197 = icmp eq i8 %196, 37
  br i1 %197, label %198, label %204

198:                                              ; preds = %195
  %199 = getelementptr inbounds i8, i8* %156, i64 1
  %200 = load i8, i8* %199, align 1
  %201 = icmp eq i8 %200, 37
  %202 = select i1 %201, i8* %199, i8* %156
  br label %204

203:                                              ; preds = %181
  store i64 %183, i64* %152, align 8
  store i32 %182, i32* %153, align 8
  br label %204

204:                                              ; preds = %203, %198, %195, %163, %161
  %205 = phi i8* [ %159, %161 ], [ %156, %195 ], [ %202, %198 ], [ %159, %163 ], [ %159, %203 ]
  %206 = getelementptr inbounds i8, i8* %205, i64 1
  br label %155, !llvm.loop !13

207:                                              ; preds = %155
  %208 = load i32, i32* %153, align 8
  %209 = icmp eq i32 %208, 0
  br i1 %209, label %210, label %293

210:                                              ; preds = %207
  %211 = call fastcc i64 @open_data(%struct.scratch* noundef nonnull %59, i32* noundef nonnull %3) #6
  %212 = load i32, i32* %3, align 4
  %213 = icmp eq i32 %212, 2
  %214 = icmp ugt i64 %211, -4096
  %215 = select i1 %214, i1 %213, i1 false
  br i1 %215, label %216, label %254

216:                                              ; preds = %210
  %217 = load i64, i64* %152, align 8
  %218 = add i64 %217, 1
  %219 = icmp ugt i64 %218, 4351
  br i1 %219, label %220, label %221

220:                                              ; preds = %216
  store i32 1, i32* %153, align 8
  br label %225

221:                                              ; preds = %216
  %222 = load i8*, i8** %150, align 8
  %223 = getelementptr inbounds i8, i8* %222, i64 %217
  store i8 46, i8* %223, align 1
  %224 = getelementptr inbounds i8, i8* %222, i64 %218
  store i8 0, i8* %224, align 1
  br label %225

225:                                              ; preds = %220, %221
  %226 = phi i32 [ 1, %220 ], [ 0, %221 ]
  %227 = phi i64 [ %217, %220 ], [ %218, %221 ]
  %228 = load i8, i8* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11, i64 0), align 8
  %229 = icmp eq i8 %228, 0
  br i1 %229, label %249, label %230

230:                                              ; preds = %225
  %231 = load i8*, i8** %150, align 8
  br label %232

232:                                              ; preds = %230, %243
  %233 = phi i32 [ %244, %243 ], [ %226, %230 ]
  %234 = phi i64 [ %245, %243 ], [ %227, %230 ]
  %235 = phi i8 [ %246, %243 ], [ %228, %230 ]
  %236 = phi i8* [ %237, %243 ], [ getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 11, i64 0), %230 ]
  %237 = getelementptr inbounds i8, i8* %236, i64 1
  %238 = add i64 %234, 1
  %239 = icmp ugt i64 %238, 4351
  br i1 %239, label %243, label %240

240:                                              ; preds = %232
  %241 = getelementptr inbounds i8, i8* %231, i64 %234
  store i8 %235, i8* %241, align 1
  %242 = getelementptr inbounds i8, i8* %231, i64 %238
  store i8 0, i8* %242, align 1
  br label %243

243:                                              ; preds = %232, %240
  %244 = phi i32 [ %233, %240 ], [ 1, %232 ]
  %245 = phi i64 [ %238, %240 ], [ %234, %232 ]
  %246 = load i8, i8* %237, align 1
  %247 = icmp eq i8 %246, 0
  br i1 %247, label %248, label %232, !llvm.loop !12

248:                                              ; preds = %243
  store i64 %245, i64* %152, align 8
  br label %249

249:                                              ; preds = %248, %225
  %250 = phi i32 [ %244, %248 ], [ %226, %225 ]
  %251 = icmp eq i32 %250, 0
  br i1 %251, label %252, label %293

252:                                              ; preds = %249
  %253 = call fastcc i64 @open_data(%struct.scratch* noundef nonnull %59, i32* noundef nonnull %3) #6
  br label %254

254:                                              ; preds = %252, %210
  %255 = phi i64 [ %211, %210 ], [ %253, %252 ]
  %256 = icmp ult i64 %255, -4095
  br i1 %256, label %257, label %293

257:                                              ; preds = %254
  %258 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 9), align 8
  %259 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 0, i64 %258, i64 3, i64 1, i64 %255, i64 0) #4
  %260 = add i64 %259, 4095
  %261 = icmp ult i64 %260, 4096
  br i1 %261, label %291, label %262

262:                                              ; preds = %257
  %263 = inttoptr i64 %259 to i64*
  %264 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 6), align 8
  %265 = getelementptr inbounds i8, i8* bitcast (%struct.header* @probeloom_data to i8*), i64 %264
  %266 = bitcast i8* %265 to i64*
  %267 = lshr i64 %264, 3
  %268 = getelementptr inbounds i64, i64* %263, i64 %267
  %269 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 7), align 8
  %270 = icmp eq i64 %269, 0
  br i1 %270, label %288, label %271

271:                                              ; preds = %262, %284
  %272 = phi i64 [ %285, %284 ], [ 0, %262 ]
  %273 = getelementptr inbounds i64, i64* %266, i64 %272
  %274 = load i64, i64* %273, align 8
  %275 = icmp eq i64 %274, 0
  br i1 %275, label %284, label %276

276:                                              ; preds = %271
  %277 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 8), align 8
  %278 = icmp ult i64 %272, %277
  %279 = getelementptr inbounds i64, i64* %268, i64 %272
  br i1 %278, label %280, label %282

280:                                              ; preds = %276
  %281 = atomicrmw add i64* %279, i64 %274 monotonic, align 8
  br label %284

282:                                              ; preds = %276
  %283 = cmpxchg i64* %279, i64 0, i64 %274 monotonic monotonic, align 8
  br label %284

284:                                              ; preds = %282, %280, %271
  %285 = add nuw i64 %272, 1
  %286 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 7), align 8
  %287 = icmp ult i64 %285, %286
  br i1 %287, label %271, label %288, !llvm.loop !14

288:                                              ; preds = %284, %262
  %289 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 9, i64 ptrtoint (%struct.header* @probeloom_data to i64), i64 %258, i64 3, i64 17, i64 %255, i64 0) #4
  %290 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 11, i64 %259, i64 %258, i64 0, i64 0, i64 0, i64 0) #4
  br label %291

291:                                              ; preds = %257, %288
  %292 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %255, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %293

293:                                              ; preds = %207, %249, %291, %254
  call void @llvm.lifetime.end.p0i8(i64 4, i8* nonnull %154) #4
  call void @llvm.lifetime.end.p0i8(i64 24, i8* nonnull %149) #4
  br label %294

294:                                              ; preds = %134, %129, %137, %121, %112, %65, %293, %144, %142
  %295 = ptrtoint i8* %58 to i64
  %296 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 11, i64 %295, i64 82688, i64 0, i64 0, i64 0, i64 0) #4
  br label %297

297:                                              ; preds = %39, %45, %5, %43, %49, %294, %53
  ret void
}

; Function Attrs: argmemonly mustprogress nofree nosync nounwind willreturn
declare void @llvm.lifetime.start.p0i8(i64 immarg, i8* nocapture) #1

; Function Attrs: noredzone nounwind optsize
define internal fastcc i64 @open_data(%struct.scratch* noundef %0, i32* nocapture noundef writeonly %1) unnamed_addr #0 {
  %3 = alloca %struct.stat, align 8
  %4 = alloca %struct.stat, align 8
  %5 = alloca [2 x i64], align 16
  %6 = bitcast %struct.stat* %4 to i8*
  %7 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 0
  %8 = ptrtoint i8* %7 to i64
  %9 = ptrtoint %struct.stat* %4 to i64
  %10 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 0
  %11 = bitcast i8* %10 to %struct.header*
  %12 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 3
  %13 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 8
  %14 = ptrtoint i8* %10 to i64
  %15 = bitcast i8* %10 to i64*
  %16 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 48
  %17 = bitcast i8* %16 to i64*
  %18 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 56
  %19 = bitcast i8* %18 to i64*
  %20 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 8
  %21 = bitcast i8* %20 to i32*
  %22 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 16
  %23 = bitcast i8* %22 to i64*
  %24 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 64
  %25 = bitcast i8* %24 to i64*
  %26 = bitcast %struct.stat* %3 to i8*
  %27 = ptrtoint %struct.stat* %3 to i64
  %28 = getelementptr inbounds %struct.stat, %struct.stat* %3, i64 0, i32 0
  %29 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 0
  %30 = getelementptr inbounds %struct.stat, %struct.stat* %3, i64 0, i32 1
  %31 = getelementptr inbounds %struct.stat, %struct.stat* %4, i64 0, i32 1
  %32 = bitcast [2 x i64]* %5 to i8*
  %33 = ptrtoint [2 x i64]* %5 to i64
  %34 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 3, i64 24
  %35 = bitcast i8* %34 to i64*
  br label %36

36:                                               ; preds = %2, %139
  %37 = phi i32 [ 0, %2 ], [ %140, %139 ]
  call void @llvm.lifetime.start.p0i8(i64 144, i8* nonnull %6) #4
  br label %38

38:                                               ; preds = %38, %36
  %39 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 %8, i64 526594, i64 0, i64 0, i64 0, i64 0) #4
  %40 = icmp eq i64 %39, -4
  br i1 %40, label %38, label %41, !llvm.loop !8

41:                                               ; preds = %38
  store i32 3, i32* %1, align 4
  %42 = icmp eq i64 %39, -2
  br i1 %42, label %43, label %46

43:                                               ; preds = %41
  %44 = call fastcc i64 @create(%struct.scratch* noundef %0, i32 noundef 0, i32 noundef 0) #6
  %45 = icmp eq i64 %44, -17
  br i1 %45, label %139, label %137

46:                                               ; preds = %41
  %47 = icmp ult i64 %39, -4095
  br i1 %47, label %48, label %137

48:                                               ; preds = %46
  %49 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 5, i64 %39, i64 %9, i64 0, i64 0, i64 0, i64 0) #4
  %50 = icmp ult i64 %49, -4095
  br i1 %50, label %53, label %51

51:                                               ; preds = %48
  %52 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %137

53:                                               ; preds = %48
  %54 = load i32, i32* %12, align 8
  %55 = and i32 %54, 61440
  %56 = icmp eq i32 %55, 32768
  br i1 %56, label %57, label %105

57:                                               ; preds = %53
  %58 = load i64, i64* %13, align 8
  %59 = icmp eq i64 %58, 0
  br i1 %59, label %108, label %60

60:                                               ; preds = %57
  %61 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 17, i64 %39, i64 %14, i64 368, i64 0, i64 0, i64 0) #4
  %62 = icmp eq i64 %61, 368
  br i1 %62, label %63, label %105

63:                                               ; preds = %60
  %64 = load i64, i64* %15, align 8
  %65 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 0), align 8
  %66 = icmp eq i64 %64, %65
  br i1 %66, label %67, label %105

67:                                               ; preds = %63
  %68 = load i64, i64* %17, align 8
  %69 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 4, i64 0), align 8
  %70 = icmp eq i64 %68, %69
  br i1 %70, label %71, label %105

71:                                               ; preds = %67
  %72 = load i64, i64* %19, align 8
  %73 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 4, i64 1), align 8
  %74 = icmp eq i64 %72, %73
  br i1 %74, label %75, label %105, !llvm.loop !15

75:                                               ; preds = %71
  %76 = load i32, i32* %21, align 8
  %77 = load i32, i32* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 1), align 8
  %78 = icmp eq i32 %76, %77
  br i1 %78, label %79, label %108

79:                                               ; preds = %75
  %80 = load i64, i64* %23, align 8
  %81 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 3, i64 0), align 8
  %82 = icmp eq i64 %80, %81
  br i1 %82, label %83, label %108

83:                                               ; preds = %79
  %84 = load i64, i64* %35, align 8
  %85 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 3, i64 1), align 8
  %86 = icmp eq i64 %84, %85
  br i1 %86, label %87, label %98, !llvm.loop !15

87:                                               ; preds = %83, %91
  %88 = phi i64 [ %97, %91 ], [ 2, %83 ]
  %89 = phi i64 [ %88, %91 ], [ 1, %83 ]
  %90 = icmp eq i64 %88, 4
  br i1 %90, label %101, label %91, !llvm.loop !15

91:                                               ; preds = %87
  %92 = getelementptr inbounds %struct.header, %struct.header* %11, i64 0, i32 3, i64 %88
  %93 = load i64, i64* %92, align 8
  %94 = getelementptr inbounds %struct.header, %struct.header* @probeloom_data, i64 0, i32 3, i64 %88
  %95 = load i64, i64* %94, align 8
  %96 = icmp eq i64 %93, %95
  %97 = add nuw nsw i64 %88, 1
  br i1 %96, label %87, label %98, !llvm.loop !15

98:                                               ; preds = %91, %83
  %99 = phi i64 [ 0, %83 ], [ %89, %91 ]
  %100 = icmp ult i64 %99, 3
  br i1 %100, label %108, label %101

101:                                              ; preds = %87, %98
  %102 = load i64, i64* %25, align 8
  %103 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 5), align 8
  %104 = icmp eq i64 %102, %103
  br i1 %104, label %109, label %108

105:                                              ; preds = %53, %63, %60, %67, %71
  %106 = phi i32 [ 2, %71 ], [ 2, %67 ], [ 3, %60 ], [ 3, %63 ], [ 3, %53 ]
  store i32 %106, i32* %1, align 4
  %107 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %137

108:                                              ; preds = %57, %101, %98, %75, %79
  store i32 1, i32* %1, align 4
  br label %113

109:                                              ; preds = %101
  %110 = load i64, i64* %13, align 8
  %111 = icmp ne i64 %110, %102
  %112 = zext i1 %111 to i32
  store i32 %112, i32* %1, align 4
  br i1 %111, label %113, label %137

113:                                              ; preds = %109, %108
  call void @llvm.lifetime.start.p0i8(i64 144, i8* nonnull %26) #4
  %114 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 73, i64 %39, i64 6, i64 0, i64 0, i64 0, i64 0) #4
  %115 = icmp eq i64 %114, -11
  br i1 %115, label %116, label %118

116:                                              ; preds = %113
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %26) #4
  %117 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %135

118:                                              ; preds = %113
  %119 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 4, i64 %8, i64 %27, i64 0, i64 0, i64 0, i64 0) #4
  %120 = icmp ult i64 %119, -4095
  br i1 %120, label %121, label %129

121:                                              ; preds = %118
  %122 = load i64, i64* %28, align 8
  %123 = load i64, i64* %29, align 8
  %124 = icmp eq i64 %122, %123
  br i1 %124, label %125, label %129

125:                                              ; preds = %121
  %126 = load i64, i64* %30, align 8
  %127 = load i64, i64* %31, align 8
  %128 = icmp eq i64 %126, %127
  br i1 %128, label %131, label %129

129:                                              ; preds = %125, %121, %118
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %26) #4
  %130 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %139

131:                                              ; preds = %125
  %132 = load i32, i32* %12, align 8
  %133 = call fastcc i64 @create(%struct.scratch* noundef %0, i32 noundef 1, i32 noundef %132) #5
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %26) #4
  %134 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %39, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  switch i64 %133, label %137 [
    i64 -11, label %135
    i64 -17, label %139
  ]

135:                                              ; preds = %116, %131
  call void @llvm.lifetime.start.p0i8(i64 16, i8* nonnull %32) #4
  call void @llvm.memcpy.p0i8.p0i8.i64(i8* noundef nonnull align 16 dereferenceable(16) %32, i8* noundef nonnull align 16 dereferenceable(16) bitcast ([2 x i64]* @__const.open_data.millisecond to i8*), i64 16, i1 false)
  %136 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 35, i64 %33, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %32) #4
  br label %139

137:                                              ; preds = %109, %43, %46, %131, %51, %105
  %138 = phi i64 [ -1, %105 ], [ -1, %51 ], [ %133, %131 ], [ %39, %109 ], [ %39, %46 ], [ %44, %43 ]
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %6) #4
  br label %142

139:                                              ; preds = %43, %135, %131, %129
  call void @llvm.lifetime.end.p0i8(i64 144, i8* nonnull %6) #4
  %140 = add nuw nsw i32 %37, 1
  %141 = icmp eq i32 %140, 2000
  br i1 %141, label %142, label %36, !llvm.loop !16

142:                                              ; preds = %139, %137
  %143 = phi i64 [ %138, %137 ], [ -1, %139 ]
  ret i64 %143
}

; Function Attrs: argmemonly mustprogress nofree nosync nounwind willreturn
declare void @llvm.lifetime.end.p0i8(i64 immarg, i8* nocapture) #1

; Function Attrs: nofree norecurse noredzone nosync nounwind optsize
define internal fastcc void @put_number(%struct.text* nocapture noundef %0, i64 noundef %1) unnamed_addr #2 {
  %3 = icmp ugt i64 %1, 9
  br i1 %3, label %11, label %6

4:                                                ; preds = %11
  %5 = icmp eq i64 %13, 0
  br i1 %5, label %35, label %6

6:                                                ; preds = %2, %4
  %7 = phi i64 [ %13, %4 ], [ 1, %2 ]
  %8 = getelementptr inbounds %struct.text, %struct.text* %0, i64 0, i32 1
  %9 = getelementptr inbounds %struct.text, %struct.text* %0, i64 0, i32 0
  %10 = getelementptr inbounds %struct.text, %struct.text* %0, i64 0, i32 2
  br label %16

11:                                               ; preds = %2, %11
  %12 = phi i64 [ %13, %11 ], [ 1, %2 ]
  %13 = mul i64 %12, 10
  %14 = udiv i64 %1, %13
  %15 = icmp ugt i64 %14, 9
  br i1 %15, label %11, label %4, !llvm.loop !17

16:                                               ; preds = %6, %32
  %17 = phi i64 [ %7, %6 ], [ %33, %32 ]
  %18 = load i64, i64* %8, align 8
  %19 = add i64 %18, 1
  %20 = icmp ugt i64 %19, 4351
  br i1 %20, label %21, label %22

21:                                               ; preds = %16
  store i32 1, i32* %10, align 8
  br label %32

22:                                               ; preds = %16
  %23 = udiv i64 %1, %17
  %24 = urem i64 %23, 10
  %25 = trunc i64 %24 to i8
  %26 = or i8 %25, 48
  %27 = load i8*, i8** %9, align 8
  store i64 %19, i64* %8, align 8
  %28 = getelementptr inbounds i8, i8* %27, i64 %18
  store i8 %26, i8* %28, align 1
  %29 = load i8*, i8** %9, align 8
  %30 = load i64, i64* %8, align 8
  %31 = getelementptr inbounds i8, i8* %29, i64 %30
  store i8 0, i8* %31, align 1
  br label %32

32:                                               ; preds = %21, %22
  %33 = udiv i64 %17, 10
  %34 = icmp ult i64 %17, 10
  br i1 %34, label %35, label %16, !llvm.loop !18

35:                                               ; preds = %32, %4
  ret void
}

; Function Attrs: noredzone nounwind optsize
define internal fastcc i64 @create(%struct.scratch* noundef %0, i32 noundef %1, i32 noundef %2) unnamed_addr #0 {
  %4 = alloca [2 x i64], align 16
  %5 = alloca %struct.text, align 8
  %6 = bitcast %struct.text* %5 to i8*
  call void @llvm.lifetime.start.p0i8(i64 24, i8* nonnull %6) #4
  %7 = getelementptr inbounds %struct.text, %struct.text* %5, i64 0, i32 0
  %8 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 0
  store i8* %8, i8** %7, align 8
  %9 = getelementptr inbounds %struct.text, %struct.text* %5, i64 0, i32 1
  %10 = getelementptr inbounds %struct.text, %struct.text* %5, i64 0, i32 2
  br label %11

11:                                               ; preds = %24, %3
  %12 = phi i64 [ %25, %24 ], [ 0, %3 ]
  br label %13

13:                                               ; preds = %11, %17
  %14 = phi i64 [ %18, %17 ], [ %12, %11 ]
  %15 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 %14
  %16 = load i8, i8* %15, align 1
  switch i8 %16, label %17 [
    i8 0, label %19
    i8 47, label %24
  ]

17:                                               ; preds = %13
  %18 = add i64 %14, 1
  br label %13, !llvm.loop !19

19:                                               ; preds = %13
  %20 = icmp eq i64 %12, 0
  br i1 %20, label %21, label %48

21:                                               ; preds = %59, %19
  %22 = phi i32 [ 0, %19 ], [ %60, %59 ]
  %23 = phi i64 [ 0, %19 ], [ %61, %59 ]
  br label %26

24:                                               ; preds = %13
  %25 = add i64 %14, 1
  br label %11, !llvm.loop !19

26:                                               ; preds = %21, %37
  %27 = phi i32 [ %38, %37 ], [ %22, %21 ]
  %28 = phi i64 [ %39, %37 ], [ %23, %21 ]
  %29 = phi i8 [ %40, %37 ], [ 46, %21 ]
  %30 = phi i8* [ %31, %37 ], [ getelementptr inbounds ([12 x i8], [12 x i8]* @.str.3, i64 0, i64 0), %21 ]
  %31 = getelementptr inbounds i8, i8* %30, i64 1
  %32 = add i64 %28, 1
  %33 = icmp ugt i64 %32, 4351
  br i1 %33, label %37, label %34

34:                                               ; preds = %26
  %35 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %28
  store i8 %29, i8* %35, align 1
  %36 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %32
  store i8 0, i8* %36, align 1
  br label %37

37:                                               ; preds = %26, %34
  %38 = phi i32 [ %27, %34 ], [ 1, %26 ]
  %39 = phi i64 [ %32, %34 ], [ %28, %26 ]
  %40 = load i8, i8* %31, align 1
  %41 = icmp eq i8* %31, getelementptr inbounds ([12 x i8], [12 x i8]* @.str.3, i64 0, i64 11)
  br i1 %41, label %42, label %26, !llvm.loop !12

42:                                               ; preds = %37
  store i64 %39, i64* %9, align 8
  store i32 %38, i32* %10, align 8
  %43 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 39, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  call fastcc void @put_number(%struct.text* noundef nonnull %5, i64 noundef %43) #6
  %44 = load i64, i64* %9, align 8
  %45 = add i64 %44, 1
  %46 = icmp ugt i64 %45, 4351
  %47 = ptrtoint i8* %8 to i64
  br label %64

48:                                               ; preds = %19, %59
  %49 = phi i64 [ %62, %59 ], [ 0, %19 ]
  %50 = phi i64 [ %61, %59 ], [ 0, %19 ]
  %51 = phi i32 [ %60, %59 ], [ 0, %19 ]
  %52 = add i64 %50, 1
  %53 = icmp ugt i64 %52, 4351
  br i1 %53, label %59, label %54

54:                                               ; preds = %48
  %55 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 %49
  %56 = load i8, i8* %55, align 1
  %57 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %50
  store i8 %56, i8* %57, align 1
  %58 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 2, i64 %52
  store i8 0, i8* %58, align 1
  br label %59

59:                                               ; preds = %48, %54
  %60 = phi i32 [ %51, %54 ], [ 1, %48 ]
  %61 = phi i64 [ %52, %54 ], [ %50, %48 ]
  %62 = add nuw i64 %49, 1
  %63 = icmp eq i64 %62, %12
  br i1 %63, label %21, label %48, !llvm.loop !20

64:                                               ; preds = %42, %77
  %65 = phi i64 [ 0, %42 ], [ %78, %77 ]
  store i64 %44, i64* %9, align 8
  br i1 %46, label %66, label %67

66:                                               ; preds = %64
  store i32 1, i32* %10, align 8
  br label %71

67:                                               ; preds = %64
  %68 = load i8*, i8** %7, align 8
  store i64 %45, i64* %9, align 8
  %69 = getelementptr inbounds i8, i8* %68, i64 %44
  store i8 45, i8* %69, align 1
  %70 = getelementptr inbounds i8, i8* %68, i64 %45
  store i8 0, i8* %70, align 1
  br label %71

71:                                               ; preds = %66, %67
  call fastcc void @put_number(%struct.text* noundef nonnull %5, i64 noundef %65) #6
  %72 = load i32, i32* %10, align 8
  %73 = icmp eq i32 %72, 0
  br i1 %73, label %74, label %189

74:                                               ; preds = %71, %74
  %75 = tail call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 2, i64 %47, i64 526786, i64 438, i64 0, i64 0, i64 0) #4
  %76 = icmp eq i64 %75, -4
  br i1 %76, label %74, label %77, !llvm.loop !8

77:                                               ; preds = %74
  %78 = add nuw nsw i64 %65, 1
  %79 = icmp ult i64 %65, 99
  %80 = icmp eq i64 %75, -17
  %81 = select i1 %79, i1 %80, i1 false
  br i1 %81, label %64, label %82, !llvm.loop !21

82:                                               ; preds = %77
  %83 = icmp ult i64 %75, -4095
  br i1 %83, label %84, label %189

84:                                               ; preds = %82
  %85 = bitcast [2 x i64]* %4 to i8*
  call void @llvm.lifetime.start.p0i8(i64 16, i8* nonnull %85) #4
  %86 = ptrtoint [2 x i64]* %4 to i64
  %87 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 97, i64 1, i64 %86, i64 0, i64 0, i64 0, i64 0) #4
  %88 = icmp ult i64 %87, -4095
  br i1 %88, label %89, label %161

89:                                               ; preds = %84
  %90 = getelementptr inbounds [2 x i64], [2 x i64]* %4, i64 0, i64 0
  %91 = load i64, i64* %90, align 16
  %92 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 5), align 8
  %93 = icmp ult i64 %91, %92
  br i1 %93, label %161, label %94

94:                                               ; preds = %89, %105
  %95 = phi i8* [ %107, %105 ], [ bitcast (%struct.header* @probeloom_data to i8*), %89 ]
  %96 = phi i64 [ %106, %105 ], [ 368, %89 ]
  %97 = ptrtoint i8* %95 to i64
  %98 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 1, i64 %75, i64 %97, i64 %96, i64 0, i64 0, i64 0) #4
  %99 = icmp eq i64 %98, -4
  br i1 %99, label %105, label %100, !llvm.loop !22

100:                                              ; preds = %94
  %101 = icmp slt i64 %98, 1
  br i1 %101, label %161, label %102

102:                                              ; preds = %100
  %103 = getelementptr inbounds i8, i8* %95, i64 %98
  %104 = sub i64 %96, %98
  br label %105

105:                                              ; preds = %102, %94
  %106 = phi i64 [ %104, %102 ], [ %96, %94 ]
  %107 = phi i8* [ %103, %102 ], [ %95, %94 ]
  %108 = icmp eq i64 %106, 0
  br i1 %108, label %109, label %94

109:                                              ; preds = %105
  %110 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 9), align 8
  %111 = add i64 %110, -368
  %112 = icmp eq i64 %111, 0
  br i1 %112, label %139, label %113

113:                                              ; preds = %109
  %114 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 4, i64 0
  br label %115

115:                                              ; preds = %134, %113
  %116 = phi i64 [ %111, %113 ], [ %135, %134 ]
  %117 = icmp ult i64 %116, 65536
  %118 = select i1 %117, i64 %116, i64 65536
  br label %119

119:                                              ; preds = %130, %115
  %120 = phi i8* [ %132, %130 ], [ %114, %115 ]
  %121 = phi i64 [ %131, %130 ], [ %118, %115 ]
  %122 = ptrtoint i8* %120 to i64
  %123 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 1, i64 %75, i64 %122, i64 %121, i64 0, i64 0, i64 0) #4
  %124 = icmp eq i64 %123, -4
  br i1 %124, label %130, label %125, !llvm.loop !22

125:                                              ; preds = %119
  %126 = icmp slt i64 %123, 1
  br i1 %126, label %161, label %127

127:                                              ; preds = %125
  %128 = getelementptr inbounds i8, i8* %120, i64 %123
  %129 = sub i64 %121, %123
  br label %130

130:                                              ; preds = %127, %119
  %131 = phi i64 [ %129, %127 ], [ %121, %119 ]
  %132 = phi i8* [ %128, %127 ], [ %120, %119 ]
  %133 = icmp eq i64 %131, 0
  br i1 %133, label %134, label %119

134:                                              ; preds = %130
  %135 = sub i64 %116, %118
  %136 = icmp eq i64 %135, 0
  br i1 %136, label %137, label %115

137:                                              ; preds = %134
  %138 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 9), align 8
  br label %139

139:                                              ; preds = %137, %109
  %140 = phi i64 [ %138, %137 ], [ 368, %109 ]
  %141 = load i64, i64* getelementptr inbounds (%struct.header, %struct.header* @probeloom_data, i64 0, i32 5), align 8
  %142 = sub i64 %141, %140
  %143 = icmp eq i64 %142, 0
  br i1 %143, label %162, label %144

144:                                              ; preds = %139
  %145 = getelementptr inbounds i8, i8* bitcast (%struct.header* @probeloom_data to i8*), i64 %140
  br label %146

146:                                              ; preds = %157, %144
  %147 = phi i8* [ %159, %157 ], [ %145, %144 ]
  %148 = phi i64 [ %158, %157 ], [ %142, %144 ]
  %149 = ptrtoint i8* %147 to i64
  %150 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 1, i64 %75, i64 %149, i64 %148, i64 0, i64 0, i64 0) #4
  %151 = icmp eq i64 %150, -4
  br i1 %151, label %157, label %152, !llvm.loop !22

152:                                              ; preds = %146
  %153 = icmp slt i64 %150, 1
  br i1 %153, label %161, label %154

154:                                              ; preds = %152
  %155 = getelementptr inbounds i8, i8* %147, i64 %150
  %156 = sub i64 %148, %150
  br label %157

157:                                              ; preds = %154, %146
  %158 = phi i64 [ %156, %154 ], [ %148, %146 ]
  %159 = phi i8* [ %155, %154 ], [ %147, %146 ]
  %160 = icmp eq i64 %158, 0
  br i1 %160, label %162, label %146

161:                                              ; preds = %100, %125, %152, %84, %89
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %85) #4
  br label %185

162:                                              ; preds = %157, %139
  call void @llvm.lifetime.end.p0i8(i64 16, i8* nonnull %85) #4
  %163 = icmp eq i32 %1, 0
  br i1 %163, label %173, label %164

164:                                              ; preds = %162
  %165 = and i32 %2, 511
  %166 = zext i32 %165 to i64
  %167 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 91, i64 %75, i64 %166, i64 0, i64 0, i64 0, i64 0) #4
  %168 = icmp eq i64 %167, 0
  br i1 %168, label %169, label %185

169:                                              ; preds = %164
  %170 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 0
  %171 = ptrtoint i8* %170 to i64
  %172 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 82, i64 %47, i64 %171, i64 0, i64 0, i64 0, i64 0) #4
  br label %182

173:                                              ; preds = %162
  %174 = getelementptr inbounds %struct.scratch, %struct.scratch* %0, i64 0, i32 1, i64 0
  %175 = ptrtoint i8* %174 to i64
  %176 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 316, i64 -100, i64 %47, i64 -100, i64 %175, i64 1, i64 0) #4
  switch i64 %176, label %182 [
    i64 -22, label %177
    i64 -38, label %177
  ]

177:                                              ; preds = %173, %173
  %178 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 86, i64 %47, i64 %175, i64 0, i64 0, i64 0, i64 0) #4
  %179 = icmp eq i64 %178, 0
  br i1 %179, label %180, label %185

180:                                              ; preds = %177
  %181 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 87, i64 %47, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %189

182:                                              ; preds = %173, %169
  %183 = phi i64 [ %172, %169 ], [ %176, %173 ]
  %184 = icmp eq i64 %183, 0
  br i1 %184, label %189, label %185

185:                                              ; preds = %177, %161, %164, %182
  %186 = phi i64 [ %183, %182 ], [ %178, %177 ], [ -1, %161 ], [ %167, %164 ]
  %187 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 3, i64 %75, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  %188 = call i64 asm sideeffect "syscall", "={ax},{ax},{di},{si},{dx},{r10},{r8},{r9},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"(i64 87, i64 %47, i64 0, i64 0, i64 0, i64 0, i64 0) #4
  br label %189

189:                                              ; preds = %71, %180, %185, %182, %82
  %190 = phi i64 [ %75, %82 ], [ %186, %185 ], [ %75, %182 ], [ %75, %180 ], [ -1, %71 ]
  call void @llvm.lifetime.end.p0i8(i64 24, i8* nonnull %6) #4
  ret i64 %190
}

; Function Attrs: argmemonly mustprogress nofree nounwind willreturn
declare void @llvm.memcpy.p0i8.p0i8.i64(i8* noalias nocapture writeonly, i8* noalias nocapture readonly, i64, i1 immarg) #3

attributes #0 = { noredzone nounwind optsize "frame-pointer"="none" "min-legal-vector-width"="0" "no-builtins" "no-jump-tables"="true" "no-trapping-math"="true" "stack-protector-buffer-size"="8" "target-cpu"="x86-64" "target-features"="-sse,-sse2,-mmx,-x87" "tune-cpu"="generic" }
attributes #1 = { argmemonly mustprogress nofree nosync nounwind willreturn }
attributes #2 = { nofree norecurse noredzone nosync nounwind optsize "frame-pointer"="none" "min-legal-vector-width"="0" "no-builtins" "no-jump-tables"="true" "no-trapping-math"="true" "stack-protector-buffer-size"="8" "target-cpu"="x86-64" "target-features"="-sse,-sse2,-mmx,-x87" "tune-cpu"="generic" }
attributes #3 = { argmemonly mustprogress nofree nounwind willreturn }
attributes #4 = { nounwind }
attributes #5 = { nobuiltin noredzone nounwind optsize "no-builtins" }
attributes #6 = { nobuiltin noredzone optsize "no-builtins" }

!llvm.module.flags = !{!0, !1}

!0 = !{i32 1, !"wchar_size", i32 4}
!1 = !{i32 7, !"PIC Level", i32 2}
!3 = distinct !{!3, !4}
!4 = !{!"llvm.loop.mustprogress"}
!5 = distinct !{!5, !4}
!6 = distinct !{!6, !4}
!8 = distinct !{!8, !4}
!9 = distinct !{!9, !4}
!10 = distinct !{!10, !4}
!11 = distinct !{!11, !4}
!12 = distinct !{!12, !4}
!13 = distinct !{!13, !4}
!14 = distinct !{!14, !4}
!15 = distinct !{!15, !4}
!16 = distinct !{!16, !4}
!17 = distinct !{!17, !4}
!18 = distinct !{!18, !4}
!19 = distinct !{!19, !4}
!20 = distinct !{!20, !4}
!21 = distinct !{!21, !4}
!22 = distinct !{!22, !4}
